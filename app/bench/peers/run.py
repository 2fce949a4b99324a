"""`riskwire bench peers`: the same work by every peer and by Riskwire, on one broker.

Starts its own Kafka and Redis unless it is given some. Drain: a full topic until the last score is
acknowledged; slow lanes have a shorter one, so that each takes a few seconds. Latency: open loop,
from a payment's due time to just before its score is produced, after a primer that lets every
program compile and connect. Lanes take turns, in the other order every other round; figures are
medians of the rounds, and only if every score was right. Raises ConfigError for an unknown lane and
Unavailable where a lane fails, or loses, doubles or misses a score.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from app.bench.load import fill_topic, load, state_of, write_state
from app.bench.peers import work
from app.bench.peers.lanes import LANES
from app.bench.peers.measure import RATE, Figures, Stage, drain, latency, size_of
from app.bench.throughput import (
    THEIRS,
    Servers,
    check_lanes,
    environment_of,
    servers,
    shown,
    topic_of,
)  # fmt: skip

SECONDS = 20.0
OURS = ("riskwire_once", "packed")
"""What the peers are compared with: all that Riskwire does, and their work alone."""
LIGHT = ("p50_ms", "p99_ms", "p999_ms", "late_ms", "cpu_us_per_tx_light")
Say = Callable[[str], None]


def run(
    *,
    records: int = 1_000_000,
    rounds: int = 3,
    lanes: Sequence[str] = tuple(LANES),
    light: bool = True,
    seconds: float = SECONDS,
    bootstrap: str | None = None,
    redis_url: str | None = None,
    say: Say = lambda _line: None,
) -> dict[str, Any]:
    """Measure; the report: `lanes`, their `ratios` to OURS, and `environment`."""
    check_lanes(lanes, LANES)
    with ExitStack() as stack:
        here = stack.enter_context(servers(bootstrap, redis_url, say))
        stage = stack.enter_context(_stage(here, records, lanes, say))
        if rounds > 1:
            say("warming the broker: one run that does not count")
            drain(LANES[lanes[0]], stage)
        runs: dict[str, list[Figures]] = defaultdict(list)
        for number in range(rounds):
            for name in lanes if number % 2 == 0 else reversed(lanes):
                found = drain(LANES[name], stage)
                if light:
                    found |= latency(LANES[name], stage, seconds)
                runs[name].append(found)
                figures = ", ".join(f"{key} {value:,.1f}" for key, value in found.items())
                say(f"round {number + 1}, {name}: {figures}")
        environment = environment_of(here, records, rounds)
    return summary({name: runs[name] for name in lanes}, environment)


@contextmanager
def _stage(here: Servers, records: int, lanes: Sequence[str], say: Say) -> Iterator[Stage]:
    say(f"filling topics with up to {records:,} transactions, and Redis with the vectors")
    with ExitStack() as stack:
        model = stack.enter_context(work.model_file())
        work.write_vectors(here.redis_url)
        its, topics = load(records), {}
        for n in {size_of(LANES[name], records) for name in lanes}:
            topics[n] = stack.enter_context(topic_of(here.bootstrap, "bench-transactions"))
            fill_topic(here.bootstrap, topics[n], its.coming.take(slice(n)))
        timing, blobs = state_of(its)
        stack.callback(write_state, here.redis_url, timing, {})
        reset = partial(write_state, here.redis_url, timing, blobs)
        yield Stage(here.bootstrap, here.redis_url, model, its.coming, topics, reset, here.pids)


def summary(runs: Mapping[str, Sequence[Figures]], environment: dict[str, Any]) -> dict[str, Any]:
    """Medians of each lane, its slowest and fastest run, and how many times as fast OURS are."""
    lanes: dict[str, dict[str, Any]] = {}
    for name, its in runs.items():
        rates = [figures["tx_per_s"] for figures in its]
        lanes[name] = {
            **{key: statistics.median(figures[key] for figures in its) for key in its[0]},
            "min_tx_per_s": min(rates),
            "max_tx_per_s": max(rates),
            "runs": list(its),
        }
    ratios = {
        ours: {
            name: round(lanes[ours]["tx_per_s"] / lane["tx_per_s"], 3)
            for name, lane in lanes.items()
        }
        for ours in OURS
        if ours in lanes
    }
    return {"lanes": lanes, "ratios": ratios, "environment": environment}


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report as tables, one of the drain and one of the latency where it was measured."""
    table = Table("lane", title="The same work by every peer: draining a full topic")
    for heading in ("tx/s", "min-max", "CPU µs/tx", *THEIRS, "Riskwire is", "its work is"):
        table.add_column(heading, justify="right")
    for name, lane in report["lanes"].items():
        ratios = [report["ratios"].get(ours, {}).get(name) for ours in OURS]
        table.add_row(
            name,
            f"{lane['tx_per_s']:,.0f}",
            f"{lane['min_tx_per_s']:,.0f}-{lane['max_tx_per_s']:,.0f}",
            f"{lane['cpu_us_per_tx']:.2f}",
            *(shown(lane.get(f"{each}_us_per_tx")) for each in THEIRS),
            *(f"{ratio:.2f} x" if ratio else "" for ratio in ratios),
        )
    console.print(table)
    if any(LIGHT[0] in lane for lane in report["lanes"].values()):
        console.print(_light(report["lanes"]))
    where = report["environment"]
    console.print(
        f"Riskwire is {OURS[0]}, with everything on; its work is the peers' own, {OURS[1]}"
    )
    console.print(f"{where['cpu']}, {where['cores']} cores; {where['kafka']}; {where['redis']}")


def _light(lanes: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("lane", title=f"At {RATE:,.0f} tx/s: due time to just before the produce call")
    for heading in ("p50 ms", "p99 ms", "p99.9 ms", "sender late ms", "CPU µs/tx"):
        table.add_column(heading, justify="right")
    for name, lane in lanes.items():
        table.add_row(name, *(f"{lane[key]:.1f}" if key in lane else "" for key in LIGHT))
    return table
