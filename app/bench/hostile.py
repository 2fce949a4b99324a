"""`riskwire bench hostile`: what input as an attack costs, and what it leaves to good records.

First the CPU time of each named bomb, a micro-batch of it decoded and made dead letters, in memory.
Then a worker drains a full topic of good records from a real Kafka, and one where a broken record
follows each good one; both ways of delivery, a process of its own for each run, one after another.
Goals: no rejected record of up to 16 KiB costs more than a millisecond, and good records keep 80 %
of their throughput. Raises Unavailable where a worker fails or a good record has no score.
"""

import itertools
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import schemas
from app import decode
from app.adapters.admin import fill
from app.bench import bombs
from app.bench.bombs import BOMBS, Bomb
from app.bench.load import Load, load, state_of, write_state
from app.bench.throughput import OUTPUTS, WARM_SHARE, environment_of, program, servers, topic_of
from app.demo.traffic import BROKEN, Due, encoded
from app.errors import Unavailable
from app.letters import letters_of
from app.records import Ragged, RecordBatch, pack_headers
from app.writers import Writers

REJECT_US_MAX = 1000.0
GOOD_KEPT_MIN = 0.8
LIMITS = decode.Limits(16_384, 32, 8192, 300_000_000)
DELIVERIES = ("at_least_once", "exactly_once")
_REPEATS = 5
_BATCH_BYTES = 8 << 20
_BATCH_RECORDS = 1024
_LETTER_BYTES_MAX = 4_000_000


class Run(NamedTuple):
    """Good records a second of one run, and CPU µs for each of them."""

    good_per_s: float
    cpu_us_per_good: float


def run(
    records: int, rounds: int, bootstrap: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure all of it: the report. Raises Unavailable."""
    say(f"{len(BOMBS)} bombs")
    report: dict[str, Any] = {"bombs_us": costs()}
    with ExitStack() as stack:
        here = stack.enter_context(servers(bootstrap, None, say))
        say(f"filling topics with {records:,} good records, and as many broken ones")
        its = load(records)
        topics = {
            share: stack.enter_context(topic_of(here.bootstrap, f"bench-{share}-broken"))
            for share in (0, 50)
        }
        for share, topic in topics.items():
            fill(here.bootstrap, topic, _traffic(its, broken=bool(share)))
        timing, blobs = state_of(its)
        reset = partial(write_state, here.redis_url, timing, blobs)
        for delivery in DELIVERIES:
            lane = partial(_lane, here.bootstrap, here.redis_url, delivery, records, reset)
            runs: dict[int, list[Run]] = {share: [] for share in topics}
            for number, share in itertools.product(range(rounds), topics):
                runs[share].append(lane(topics[share], 2 * records if share else records))
                say(f"{delivery}, round {number + 1}, {share} % broken: {runs[share][-1]}")
            report[delivery] = _summary(runs)
        report["environment"] = environment_of(here, records, rounds)
    report["missed"] = missed(report)
    return report


def costs() -> dict[str, float]:
    """CPU µs that a record of each bomb costs to reject, least of several repeats."""
    writers = bombs.writers()
    return {name: round(_cost(bomb, writers), 3) for name, bomb in BOMBS.items()}


def _cost(bomb: Bomb, writers: Writers) -> float:
    records = batch_of(bomb)
    spent = []
    for _ in range(_REPEATS):
        began_s = time.thread_time()
        rejects = decode.decode(records, writers, LIMITS).rejects
        letters = letters_of(records, rejects, "dead-letters", _LETTER_BYTES_MAX)
        spent.append(time.thread_time() - began_s)
        if len(letters) < len(records):
            raise Unavailable("a hostile record was accepted")
    return 1e6 * min(spent) / len(records)


def batch_of(bomb: Bomb) -> RecordBatch:
    """A micro-batch of nothing else."""
    headers = pack_headers(bomb.headers)
    n = max(1, min(_BATCH_RECORDS, _BATCH_BYTES // (size_of(bomb) + 1)))
    return RecordBatch(
        "transactions", np.zeros(n, np.int32), np.arange(n), np.full(n, 1_790_000_000_000),
        np.full(n, 2, np.int8), Ragged.of([bomb.key] * n), Ragged.of([bomb.value] * n),
        Ragged.of([headers] * n), 1_790_000_000_000_000,
    )  # fmt: skip


def size_of(bomb: Bomb) -> int:
    """Bytes of value, key and headers."""
    headers = sum(len(name) + len(value or b"") for name, value in bomb.headers)
    return len(bomb.value or b"") + len(bomb.key or b"") + headers


def missed(report: dict[str, Any]) -> list[str]:
    """The goals that were not met, in words."""
    found = [
        f"{name}: {us:.0f} µs, not {REJECT_US_MAX:.0f}"
        for name, us in report["bombs_us"].items()
        if us > REJECT_US_MAX and size_of(BOMBS[name]) <= bombs.SMALL_BYTES
    ]
    found += [
        f"{delivery}: good records keep {100 * kept:.0f} % of their throughput, not 80 %"
        for delivery in DELIVERIES
        if (kept := report[delivery]["good_kept"]) < GOOD_KEPT_MIN
    ]
    return found


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as tables."""
    table = Table("bomb", "code", title="CPU to reject a record")
    table.add_column("bytes", justify="right")
    table.add_column("µs", justify="right")
    for name, us in report["bombs_us"].items():
        table.add_row(name, BOMBS[name].code, f"{size_of(BOMBS[name]):,}", f"{us:.2f}")
    console.print(table)
    table = Table("delivery", title="Good records, a broken one behind each or none")
    for heading in ("good/s, none", "good/s, 50 %", "kept", "CPU µs, none", "CPU µs, 50 %"):
        table.add_column(heading, justify="right")
    for delivery in DELIVERIES:
        its = report[delivery]
        table.add_row(
            delivery,
            *(f"{its[share]['good_per_s']:,.0f}" for share in ("0", "50")),
            f"{100 * its['good_kept']:.0f} %",
            *(f"{its[share]['cpu_us_per_good']:.2f}" for share in ("0", "50")),
        )
    console.print(table)
    for each in report["missed"]:
        console.print(f"missed: {each}")


def _traffic(its: Load, *, broken: bool) -> Iterator[tuple[bytes, bytes]]:
    """The good records, and behind each a broken one, all kinds in turn."""
    header = schemas.load("transaction").single_object_header
    kinds = itertools.cycle(BROKEN)
    for key, value in encoded(its.coming, "tx", 0, header):
        yield key, value
        if broken:
            bad = next(kinds).breaks(Due(its.now_us, key, value), header)
            yield bad.key or b"", bad.value


def _lane(
    bootstrap: str, redis: str, delivery: str, good: int, reset: Callable[[], None],
    topic: str, records: int,
) -> Run:  # fmt: skip
    reset()
    with topic_of(bootstrap, "bench-scores", OUTPUTS) as scores:
        found = program(
            "app.bench.lanes.riskwire",
            *("--bootstrap", bootstrap, "--topic", topic, "--group", f"bench-{uuid.uuid4().hex}"),
            *("--redis", redis, "--n", str(records), "--warm", str(int(records * WARM_SHARE))),
            *("--scores", scores, "--delivery", delivery),
        )
        seen = program("app.bench.lanes.verify", "--bootstrap", bootstrap, "--topic", scores)
    if seen["records"] != good:
        raise Unavailable(f"{good} good records have {seen['records']} scores")
    share = good / records
    cpu_us = 1e6 * found["cpu_s"] / found["tx"] / share
    return Run(round(found["tx"] / found["seconds"] * share, 1), round(cpu_us, 3))


def _summary(runs: dict[int, list[Run]]) -> dict[str, Any]:
    medians = {
        str(share): {
            "good_per_s": statistics.median(each.good_per_s for each in its),
            "cpu_us_per_good": statistics.median(each.cpu_us_per_good for each in its),
        }
        for share, its in runs.items()
    }
    kept = medians["50"]["good_per_s"] / medians["0"]["good_per_s"]
    return {**medians, "good_kept": round(kept, 3), "runs": runs}
