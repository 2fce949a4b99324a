"""The stages on their own, in memory: what `bench stages` and `bench scaling` measure them with.

Micro-batches go through the calls that `app.pipeline` makes, on one thread and without Kafka. CPU
time is read after each stage, less what reading it takes. Beside a stage stands its floor on the
same data: what would be left to do if the stage's own work cost nothing.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from app import decode
from app.adapters.memory import MemoryStore
from app.adapters.onnx import CPU, OnnxScorer, load_scorer, open_session
from app.decide import decide, reasons
from app.emit import Provenance, Route, Scored, emit
from app.latency import Instants
from app.live import Live, Pending
from app.meta import Meta
from app.partitioner import partition_of
from app.records import Int64s, Outbound, Ragged, RecordBatch, Transactions
from app.score import score
from app.writers import Writers
from features.blob import meta_key
from features.contract import Timing
from features.state import TRANSACTIONS
from features.xxh64 import vector_hash
from models.manifest import INPUT, OUTPUT, read

LIMITS = decode.Limits(16_384, 32, 8192, 300_000_000)
ROUTE = Route("scores", "alerts", "dead-letters")
IMAGES = "images of state"
STAGES = (
    "decode", "find rows", "features", "model", "reasons", "vector hash", "emit", IMAGES,
)  # fmt: skip
_READINGS = 1_000
_TURNS = 7


class Rig(NamedTuple):
    """What batches go through; `session` is a bare one on the scorer's model.

    `places` is a dict of entities by token, for the floor of finding rows.
    """

    live: Live
    store: MemoryStore
    scorer: OnnxScorer
    session: Any
    writers: Writers
    places: Mapping[bytes | None, int]


class Spent:
    """CPU seconds by stage and by floor."""

    def __init__(self) -> None:
        """Begin now."""
        self.stages_s: defaultdict[str, float] = defaultdict(float)
        self.floors_s: defaultdict[str, float] = defaultdict(float)
        began_s = time.process_time()
        for _ in range(_READINGS):
            now_s = time.process_time()
        self._reading_s = (now_s - began_s) / _READINGS
        self.begin()

    def begin(self) -> None:
        """Let what was done up to now count for nothing."""
        self._at_s = time.process_time()

    def stage(self, name: str) -> None:
        """Count what was done since for a stage."""
        self._count(self.stages_s, name)

    def floor(self, name: str) -> None:
        """Count what was done since for a stage's floor."""
        self._count(self.floors_s, name)

    def _count(self, seconds: defaultdict[str, float], name: str) -> None:
        seconds[name] += max(0.0, time.process_time() - self._at_s - self._reading_s)
        self.begin()


def live_of(
    timing: Timing, blobs: Mapping[bytes, bytes], partitions: int, customers: int, shares: int
) -> Live:
    """A state with room for so many that owns all partitions as these blobs have them."""
    live = Live(timing, partitions, customers, shares)
    for partition in range(partitions):
        meta = Meta.parse(blobs[meta_key(live.namespace, partition)])
        assert meta is not None  # noqa: S101 -- written just now
        live.adopt(partition, meta, (0, 0))
    return live


def rig_of(live: Live, blobs: Mapping[bytes, bytes], entities: int = 0) -> Rig:
    """The shipped model on the CPU over this state; `entities` have the numbers below as tokens."""
    places: dict[bytes | None, int] = {b"%d" % number: number for number in range(entities)}
    return Rig(live, MemoryStore(blobs), *_shipped(), Writers(), places)


@cache
def _shipped() -> tuple[OnnxScorer, Any]:
    return load_scorer(None, CPU), open_session(read().model, CPU)[0]


def batches(
    rows: Sequence[tuple[bytes, bytes]],
    partitions: int,
    now_us: int,
    plan: Sequence[tuple[int, int]],
) -> Iterator[list[RecordBatch]]:
    """Keys and values as micro-batches; for each part of the plan, a size and how many records."""
    partition = np.array([partition_of(key, partitions) for key, _ in rows], np.int32)
    offset: Int64s = np.zeros(len(rows), np.int64)
    for p in range(partitions):
        mine = np.flatnonzero(partition == p)
        offset[mine] = np.arange(len(mine))

    def batch(part: slice) -> RecordBatch:
        k = len(offset[part])
        return RecordBatch(
            "transactions", partition[part], offset[part],
            np.full(k, now_us // 1000), np.full(k, 2, np.int8),
            Ragged.of([key for key, _ in rows[part]]),
            Ragged.of([value for _, value in rows[part]]), Ragged.of([b""] * k), now_us,
        )  # fmt: skip

    begin = 0
    for size, n in plan:
        end = begin + n
        yield [batch(slice(at, min(at + size, end))) for at in range(begin, end, size)]
        begin = end


def measure(parts: Sequence[RecordBatch], rig: Rig) -> dict[str, Any]:
    """CPU µs a transaction by stage, and those of the floors; counts of what there was.

    Images are made once at the end, as a worker makes them every two seconds.
    """
    spent, counts = Spent(), Counter[str]()
    for records in parts:
        scored, outbound = through(records, rig, spent)
        _floors(records, scored, outbound, rig, spent)
        counts["records"] += len(records)
        counts["alerts"] += len(scored.alerted)
    counts["images"] = flush(rig, spent)[0]

    def us(seconds: Mapping[str, float]) -> dict[str, float]:
        found = (stage for stage in STAGES if stage in seconds)
        return {stage: round(seconds[stage] / counts["records"] * 1e6, 3) for stage in found}

    return {**us(spent.stages_s), "floors": us(spent.floors_s), **counts}


def found(transactions: Transactions, rig: Rig, now_us: int) -> Pending:
    """The rows of a batch, what is missing read from the store."""
    pending = rig.live.lookup(transactions, now_us)
    rig.live.take(pending, [rig.store.blobs.get(key) for key in pending.keys])
    return pending


def through(records: RecordBatch, rig: Rig, spent: Spent) -> tuple[Scored, Outbound]:
    """Take a batch through all stages; what was scored, and what would be sent."""
    live, scorer = rig.live, rig.scorer
    spent.begin()
    transactions = decode.decode(records, rig.writers, LIMITS).transactions
    spent.stage("decode")
    pending = found(transactions, rig, records.polled_us)
    live.applied(TRANSACTIONS, records)
    spent.stage("find rows")
    matrix, provisional = live.advance(transactions, pending)
    spent.stage("features")
    scores = score(matrix, scorer)
    spent.stage("model")
    decisions = decide(scores, scorer.policy)
    alerted = np.flatnonzero(decisions)
    why = reasons(matrix, alerted, scorer.explainer)
    spent.stage("reasons")
    hashes = vector_hash(matrix)
    spent.stage("vector hash")
    now = records.polled_us
    scored = Scored(
        transactions, matrix, scores, decisions, hashes, provisional, scorer.policy.thresholds,
        alerted, why, Instants(now, now, now, now, now), np.zeros(len(matrix), np.bool_),
    )  # fmt: skip
    outbound = emit(records, scored, [], source_of(scorer), ROUTE)
    spent.stage("emit")
    return scored, outbound


def source_of(scorer: OnnxScorer) -> Provenance:
    """What scores say that they come from."""
    return Provenance(scorer.model_id, scorer.feature_contract_id, scorer.provider)


def _floors(
    records: RecordBatch, scored: Scored, outbound: Outbound, rig: Rig, spent: Spent
) -> None:
    read_in = [records.keys.data, records.values.data]
    written = [column.values.data[: column.values.nbytes] for column in outbound.columns]
    names = (scored.transactions.strings(f"{kind}_id") for kind in ("customer", "terminal"))
    tokens = [column[i] for column in names for i in range(len(column))]
    spent.begin()
    for data in read_in:
        data.copy()
    spent.floor("decode")
    list(map(rig.places.get, tokens))
    spent.floor("find rows")
    rig.session.run([OUTPUT], {INPUT: scored.matrix})
    spent.floor("model")
    scored.matrix.copy()
    spent.floor("vector hash")
    for data in written:
        data.copy()
    spent.floor("emit")


def flush(rig: Rig, spent: Spent) -> tuple[int, int]:
    """Images of what changed, written to the store: how many, and their bytes."""
    live, store = rig.live, rig.store
    spent.begin()
    frozen = live.freeze()
    spent.stage(IMAGES)
    blobs = [blob for image in frozen for _, blob in image.pairs]
    spent.begin()
    size = len(b"".join(blobs))
    spent.floor(IMAGES)
    for image in frozen:
        live.writing(image)
        store.blobs |= dict(image.pairs)
        store.blobs[meta_key(live.namespace, image.partition)] = image.after.encode()
        live.flushed(image)
    return len(blobs), size


def least_s(*works: Callable[[], Any]) -> list[float]:
    """CPU seconds of each, the least of several turns: what else the machine does comes on top.

    What a first call makes for the later ones counts for nothing.
    """
    turns = [[_cpu_s(work) for work in works] for _ in range(1 + _TURNS)]
    return [min(times_s) for times_s in zip(*turns[1:], strict=True)]


def _cpu_s(work: Callable[[], Any]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s
