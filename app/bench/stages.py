"""What each stage costs: CPU µs a transaction, one process, everything in memory, no Kafka.

The benchmark's payments go through the stages of `app.pipeline` on the state that 45 days of
history left, in micro-batches of several sizes, each stage beside its floor (`app.bench.rig`; that
of the features is `features.kernel` on one partition). A first pass reads every entity, from
memory, as if Redis answered at once; the later ones find them all. Small batches get fewer records.
Avro and the model are compared with fastavro and ONNX Runtime (`app.bench.ratios`); a ratio below
what it must be is `missed`. Raises ConfigError for sizes that are none.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import schemas
from app import decode
from app.adapters.memory import MemoryRegistry, MemoryStore
from app.adapters.onnx import OnnxScorer
from app.backoff import Backoff
from app.bench.given import numbers
from app.bench.lanes.lane import PARTITIONS
from app.bench.load import WORLD, Load, load, state_of
from app.bench.ratios import BATCH, BATCHES, judged, missed, ratios
from app.bench.rig import (
    LIMITS,
    ROUTE,
    STAGES,
    batches,
    live_of,
    measure,
    rig_of,
)
from app.demo.traffic import encoded
from app.enrich import Enrich
from app.live import Live
from app.pipeline import Parts, process
from app.records import RecordBatch
from app.shed import FULL, RULE, WITHOUT_TERMINAL, Shedding
from app.warm_up import warm_up
from app.writers import Writers
from features import kernel
from features.contract import REPLAY, WIDTH
from features.state import State
from models.handbook import Payments

BATCHES_MAX = 2_000
"""So many batches of a size are enough."""
ROOM = 65_536, 262_144
LEVELS = (FULL, WITHOUT_TERMINAL, RULE)
AMOUNT_MINOR = 22_000  # the default of RISKWIRE_SHED_AMOUNT_MINOR
COPY = "copy of bytes"
FLOORS = {
    "decode": COPY,
    "find rows": "dict lookups",
    "features": "kernel alone",
    "model": "session.run",
    "vector hash": COPY,
    "emit": COPY,
    "images of state": COPY,
}


def run(records: int, sizes: Sequence[int]) -> dict[str, Any]:
    """CPU µs a transaction by batch size and stage, the ratios, and which of them are missed.

    `first pass` and `second pass` are of the largest of the `sizes`, as is what shedding saves.
    """
    sizes = sorted(set(sizes), reverse=True)
    plan = [(size, min(records, BATCHES_MAX * size)) for size in (sizes[0], *sizes)]
    plan.append((BATCH, BATCH * BATCHES))
    its = load(sum(n for _, n in plan))
    timing, blobs = state_of(its)
    header = schemas.load("transaction").single_object_header
    rows = list(encoded(its.coming, "tx", 0, header))
    *parts, rest = batches(rows, PARTITIONS, its.now_us, plan)
    rig = rig_of(live_of(timing, blobs, PARTITIONS, *ROOM), blobs, WORLD.terminals)
    asyncio.run(warm_up(_parts(rig.live, blobs, rig.scorer, its.now_us, FULL)))
    first, *passes = (measure(part, rig) for part in parts)
    compared = ratios(rest, rig)
    alone = _kernel(its, plan[1:-1])
    for size, its_pass in zip(sizes, passes, strict=True):
        its_pass["floors"]["features"] = alone[str(size)]

    def level(number: int) -> float:
        live = live_of(timing, blobs, PARTITIONS, *ROOM)
        return _level(parts[:2], _parts(live, blobs, rig.scorer, its.now_us, number))

    return {
        "batch": sizes[0],
        "model": rig.scorer.model_id,
        "first pass": first,
        "second pass": passes[0],
        "sizes": {str(size): passes[k] for k, size in reversed(list(enumerate(sizes)))},
        "levels": {str(number): level(number) for number in LEVELS},
        "kernel alone": alone,
        "ratios": compared,
        "missed": missed(compared),
    }


def numbers_of(text: str) -> list[int]:
    """Sizes as given on a command line; raises ConfigError for what is none."""
    return numbers(text, int, "sizes", "1,256,4096")


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the table, floors dimmed, and the ratios with their goals."""
    columns = {**report["sizes"], "first": report["first pass"]}
    table = Table(title="CPU µs a transaction, by records in a micro-batch")
    table.add_column("stage", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for stage in STAGES:
        table.add_row(stage, *(_us(its[stage]) for its in columns.values()))
        if stage in FLOORS:
            floors = (_us(its["floors"].get(stage)) for its in columns.values())
            table.add_row(f"  {FLOORS[stage]}", *floors, style="dim")
    table.add_section()
    table.add_row("sum", *(_us(sum(its[s] for s in STAGES)) for its in columns.values()))
    console.print(table)
    console.print(f"first: in batches of {report['batch']}, while every entity is read")
    for name, ratio in report["ratios"].items():
        console.print(judged(name, ratio))
    shed = ", ".join(f"{us:.2f} at level {level}" for level, us in report["levels"].items())
    console.print(f"all of it in batches of {report['batch']}, by level of shedding: {shed}")
    console.print(f"model: {report['model']}")


def _us(us: float | None) -> str:
    if us is None:
        return ""
    return f"{us:.2f}" if us < 100 else f"{us:.0f}"


def _parts(
    live: Live, blobs: Mapping[bytes, bytes], scorer: OnnxScorer, now_us: int, level: int
) -> Parts:
    return Parts(
        decode=decode.decode,
        writers=Writers(),
        limits=LIMITS,
        registry=MemoryRegistry(),
        enrich=Enrich(live, MemoryStore(blobs), lambda: now_us, Backoff(), _no_room),
        scorer=scorer,
        policy=scorer.policy,
        explainer=scorer.explainer,
        route=ROUTE,
        clock=lambda: now_us,
        backoff=Backoff(),
        shedding=Level(1, AMOUNT_MINOR, level),
    )


def _level(halves: Sequence[Sequence[RecordBatch]], parts: Parts) -> float:
    """CPU µs a transaction of the whole pipeline, entities in memory after the first half."""

    async def run_all(its: Sequence[RecordBatch]) -> None:
        for records in its:
            await process(records, parts)

    asyncio.run(run_all(halves[0]))
    began = time.process_time()
    asyncio.run(run_all(halves[1]))
    return round((time.process_time() - began) / sum(map(len, halves[1])) * 1e6, 3)


class Level(Shedding):
    """One level, however old records are."""

    def at(self, age_us: int) -> int:  # noqa: ARG002 -- see there
        """See `Shedding.at`."""
        return self.level


async def _no_room() -> None:
    raise RuntimeError("the state is too small for the benchmark")


def _kernel(its: Load, plan: Sequence[tuple[int, int]]) -> dict[str, float]:
    """CPU µs a row by size of batch, on the state that the history left."""
    state = State.empty(WORLD.customers, WORLD.terminals, 1, REPLAY)
    state.owned[:] = True
    _advance(state, its.past, 4096)
    found, first = {}, 0
    for size, n in plan:
        rows = its.coming.take(slice(first, first + n))
        found[str(size)] = round(_advance(state, rows, size) / n * 1e6, 3)
        first += n
    return found


def _advance(state: State, paid: Payments, size: int) -> float:
    """CPU seconds."""
    n = len(paid)
    shares, zero = paid.terminal[:, np.newaxis].copy(), np.zeros(n, np.int32)
    out, provisional = np.empty((n, WIDTH), np.float32), np.empty(n, np.bool_)
    began = time.process_time()
    for first in range(0, n, size):
        rows = slice(first, first + size)
        kernel.advance(
            state, paid.customer[rows], shares[rows], zero[rows], paid.event_time_us[rows],
            paid.amount_minor[rows], out[rows], provisional[rows],
        )  # fmt: skip
    return time.process_time() - began
