"""What each stage costs: CPU µs a transaction, one process, everything in memory, no Kafka.

The benchmark's payments go through the stages of `app.pipeline` in micro-batches, on the state that
45 days of history left. The first pass reads every entity (from memory, as if Redis answered at
once); the second pass, which is shown beside it, finds them all. Writing the state is measured as
the worker does it, every so many batches. `kernel alone` is features.kernel on one partition.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import schemas
from app import decode
from app.adapters.memory import MemoryRegistry, MemoryStore
from app.adapters.onnx import CPU, OnnxScorer, load_scorer
from app.backoff import Backoff
from app.bench.lanes.lane import PARTITIONS
from app.bench.load import Load, load, state_of
from app.decide import decide, reasons
from app.demo.traffic import encoded
from app.emit import Provenance, Route, Scored, emit
from app.enrich import Enrich
from app.latency import Instants
from app.live import Live
from app.meta import Meta
from app.partitioner import partition_of
from app.pipeline import Parts, process
from app.records import Int64s, Ragged, RecordBatch
from app.shed import FULL, RULE, WITHOUT_TERMINAL, Shedding
from features import kernel
from features.blob import meta_key
from features.contract import REPLAY, WIDTH
from features.state import TRANSACTIONS, State
from features.xxh64 import vector_hash

FLUSH_BATCHES = 100
KERNEL_ROWS = 100_000
LEVELS = (FULL, WITHOUT_TERMINAL, RULE)
AMOUNT_MINOR = 22_000  # the default of RISKWIRE_SHED_AMOUNT_MINOR
LIMITS = decode.Limits(16_384, 32, 8192, 300_000_000)
WRITERS = decode.Writers()
STAGES = (
    "decode", "find rows", "features", "model", "reasons", "vector hash", "emit", "images of state",
)  # fmt: skip


def run(records: int, batch: int) -> dict[str, Any]:
    """CPU µs a transaction by pass and stage, and how many alerts and images there were."""
    its = load(2 * records)
    timing, blobs = state_of(its)
    scorer, store, live = load_scorer(None, CPU), MemoryStore(blobs), _live(timing, blobs)
    batches = list(_batches(its, 2 * records, batch))
    half = len(batches) // 2
    report: dict[str, Any] = {"batch": batch, "model": scorer.model_id}
    for name, part in (("first pass", batches[:half]), ("second pass", batches[half:])):
        counts, n = Counter[str](), sum(map(len, part))
        spent = dict.fromkeys(STAGES, 0.0)
        for k, records_ in enumerate(part):
            _stages(records_, live, store, scorer, spent, counts)
            if k % FLUSH_BATCHES == FLUSH_BATCHES - 1:
                began = time.process_time()
                images = live.freeze()
                spent["images of state"] += time.process_time() - began
                counts["images"] += sum(len(image.pairs) for image in images)
                for image in images:
                    live.writing(image)
                    store.blobs |= dict(image.pairs)
                    store.blobs[meta_key(live.namespace, image.partition)] = image.after.encode()
                    live.flushed(image)
        report[name] = {stage: round(spent[stage] / n * 1e6, 3) for stage in STAGES} | dict(counts)
    report["levels"] = {str(level): _level(its, records, batch, level) for level in LEVELS}
    report["kernel alone"] = {str(size): _kernel(its, size) for size in (256, 2048)}
    return report


def show(report: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table("stage", title=f"CPU µs a transaction, batches of {report['batch']}")
    for name in ("first pass", "second pass"):
        table.add_column(name, justify="right")
    for stage in STAGES:
        row = (f"{report[name][stage]:.2f}" for name in ("first pass", "second pass"))
        table.add_row(stage, *row)
    console.print(table)
    alone = ", ".join(f"{us:.2f} in batches of {n}" for n, us in report["kernel alone"].items())
    shed = ", ".join(f"{us:.2f} at level {level}" for level, us in report["levels"].items())
    console.print(f"all of it, by level of shedding: {shed}")
    console.print(f"kernel alone, one partition: {alone}; model: {report['model']}")


def _live(timing: Any, blobs: dict[bytes, bytes]) -> Live:
    live = Live(timing, PARTITIONS, 65_536, 262_144)
    for partition in range(PARTITIONS):
        meta = Meta.parse(blobs[meta_key(live.namespace, partition)])
        assert meta is not None  # noqa: S101 -- written just now
        live.adopt(partition, meta, (0, 0))
    return live


def _batches(its: Load, n: int, size: int) -> Any:
    header = schemas.load("transaction").single_object_header
    rows = list(encoded(its.coming, "tx", 0, header))[:n]
    partition = np.array([partition_of(key, PARTITIONS) for key, _ in rows], np.int32)
    offset: Int64s = np.zeros(n, np.int64)
    for p in range(PARTITIONS):
        mine = np.flatnonzero(partition == p)
        offset[mine] = np.arange(len(mine))
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        k = part.stop - first
        yield RecordBatch(
            "transactions", partition[part], offset[part],
            np.full(k, its.now_us // 1000), np.full(k, 2, np.int8),
            Ragged.of([key for key, _ in rows[part]]),
            Ragged.of([value for _, value in rows[part]]), Ragged.of([b""] * k), its.now_us,
        )  # fmt: skip


def _stages(
    records: RecordBatch,
    live: Live,
    store: MemoryStore,
    scorer: OnnxScorer,
    spent: dict[str, float],
    counts: Counter[str],
) -> None:
    at = [time.process_time()]

    def done(stage: str) -> None:
        at.append(time.process_time())
        spent[stage] += at[-1] - at[-2]

    transactions = decode.decode(records, WRITERS, LIMITS).transactions
    done("decode")
    pending = live.lookup(transactions, records.polled_us)
    live.take(pending, [store.blobs.get(key) for key in pending.keys])
    live.applied(TRANSACTIONS, records)
    done("find rows")
    matrix, provisional = live.advance(transactions, pending)
    done("features")
    scores = scorer.score_many(matrix)
    done("model")
    decisions = decide(scores, scorer.policy)
    alerted = np.flatnonzero(decisions)
    why = reasons(matrix, alerted, scorer.explainer)
    done("reasons")
    hashes = vector_hash(matrix)
    done("vector hash")
    now = records.polled_us
    scored = Scored(
        transactions, matrix, scores, decisions, hashes, provisional, scorer.policy.thresholds,
        alerted, why, Instants(now, now, now, now, now), np.zeros(len(matrix), np.bool_),
    )  # fmt: skip
    source = Provenance(scorer.model_id, scorer.feature_contract_id, scorer.provider)
    emit(records, scored, [], source, Route("scores", "alerts", "dead-letters"))
    done("emit")
    counts["alerts"] += len(alerted)


def _level(its: Load, n: int, size: int, level: int) -> float:
    """CPU µs a transaction of the whole pipeline at a level of shedding, entities in memory."""
    timing, blobs = state_of(its)
    live, scorer = _live(timing, blobs), load_scorer(None, CPU)
    batches = list(_batches(its, 2 * n, size))
    parts = Parts(
        decode=decode.decode,
        writers=WRITERS,
        limits=LIMITS,
        registry=MemoryRegistry(),
        enrich=Enrich(live, MemoryStore(blobs), lambda: its.now_us, Backoff(), _no_room),
        scorer=scorer,
        policy=scorer.policy,
        explainer=scorer.explainer,
        route=Route("scores", "alerts", "dead-letters"),
        clock=lambda: its.now_us,
        backoff=Backoff(),
        shedding=Level(1, AMOUNT_MINOR, level),
    )

    async def run_all(batches: list[RecordBatch]) -> None:
        for records in batches:
            await process(records, parts)

    half = len(batches) // 2
    asyncio.run(run_all(batches[:half]))
    began = time.process_time()
    asyncio.run(run_all(batches[half:]))
    return round((time.process_time() - began) / sum(map(len, batches[half:])) * 1e6, 3)


class Level(Shedding):
    """One level, however old records are."""

    def at(self, age_us: int) -> int:  # noqa: ARG002 -- see there
        """See `Shedding.at`."""
        return self.level


async def _no_room() -> None:
    raise RuntimeError("the state is too small for the benchmark")


def _kernel(its: Load, size: int) -> float:
    """CPU µs a row of the last KERNEL_ROWS of the history, on the state that the others left."""
    past = its.past
    n = len(past)
    state = State.empty(int(past.customer.max()) + 1, int(past.terminal.max()) + 1, 1, REPLAY)
    state.owned[:] = True
    shares, zero = past.terminal[:, np.newaxis].copy(), np.zeros(n, np.int32)
    out, provisional = np.empty((n, WIDTH), np.float32), np.empty(n, np.bool_)
    begun, from_ = 0.0, n - KERNEL_ROWS
    for first in range(0, n, size):
        if first >= from_ and not begun:
            begun, from_ = time.process_time(), first
        rows = slice(first, min(first + size, n))
        kernel.advance(
            state, past.customer[rows], shares[rows], zero[rows], past.event_time_us[rows],
            past.amount_minor[rows], out[rows], provisional[rows],
        )  # fmt: skip
    return round((time.process_time() - begun) / (n - from_) * 1e6, 3)
