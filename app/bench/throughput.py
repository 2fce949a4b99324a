"""`riskwire bench throughput`: Riskwire and its peers drain the same full topic on the same broker.

Starts its own Kafka and Redis unless it is given some, fills the topic once, and runs every lane as
a process of its own, one after another, the order turned round every other round; medians count.
Lanes that score begin with the same state in Redis. One is only believed if an independent reader
finds a score for each record that it read, and the same scores as from the others. Figures hold for
the machine and the minute; ratios travel better.
Raises ConfigError or Unavailable.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from app.adapters.admin import create_topics, delete_topics
from app.bench.lanes.lane import PARTITIONS
from app.bench.load import STATE, fill_topic, load, state_of, write_state
from app.demo.cluster import pick_kafka, redis_server
from app.demo.process import Server
from app.errors import ConfigError, Unavailable

OUTPUTS = ("", "-alerts", "-dead-letters", "-labels", "-watermarks")
WARM_SHARE = 0.1
LANE_TIMEOUT_S = 120
THEIRS = ("kafka", "redis")
REPORTED_VERSIONS = (
    "riskwire", "confluent-kafka", "faust-streaming", "fastavro", "numpy", "numba", "onnxruntime",
    "redis",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lane:
    """A program of `app.bench.lanes`, and the share of the topic that it reads.

    Slow lanes read less, so that each takes a few seconds; none stops before 10,000 records.
    """

    module: str
    share: float
    scores: bool
    arguments: tuple[str, ...] = ()


LANES: dict[str, Lane] = {
    "riskwire": Lane("riskwire", 1.0, scores=True, arguments=("--transport", "native")),
    "riskwire_once": Lane("riskwire", 1.0, scores=True, arguments=("--delivery", "exactly_once")),
    "riskwire_objects": Lane("riskwire", 0.4, scores=True, arguments=("--transport", "objects")),
    "hand_loop": Lane("hand_loop", 0.2, scores=True),
    "stock_faust": Lane("stock_faust", 0.06, scores=False),
    "consume_only": Lane("consume_only", 1.0, scores=False),
}
LUXURIES: dict[str, Lane] = {
    f"once_{variant}": Lane(
        "riskwire", 1.0, scores=True, arguments=("--delivery", "exactly_once", "--variant", variant)
    )
    for variant in ("no_latency", "no_metrics", "no_reasons")
}
"""With everything on but one; see `app.bench.luxuries`."""
ALL = LANES | LUXURIES
RATIOS = (
    ("riskwire_once", "riskwire"),
    ("riskwire", "hand_loop"),
    ("riskwire", "stock_faust"),
    ("riskwire", "consume_only"),
    ("riskwire", "riskwire_objects"),
    ("riskwire_objects", "hand_loop"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one lane; `digests` of what it said first, by partition."""

    tx_per_s: float
    cpu_us_per_tx: float
    read: int
    digests: Mapping[str, str] = field(default_factory=dict)
    warmed: bool = True
    servers_us_per_tx: Mapping[str, float] = field(default_factory=dict)
    """CPU of our Kafka and our Redis meanwhile, the lane's start and warm-up included."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the lanes run; `reset` lets Redis have the state that each begins with."""

    bootstrap: str
    redis_url: str
    topic: str
    records: int
    reset: Callable[[], None]
    pids: Mapping[str, int]


def run(
    *,
    records: int = 1_000_000,
    rounds: int = 3,
    lanes: Sequence[str] = tuple(LANES),
    bootstrap: str | None = None,
    redis_url: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure; the report: by lane the medians, `ratios` and `environment`.

    `say` is told what happens. Raises ConfigError for an unknown lane, Unavailable where a lane
    fails, loses or doubles records, or scores differently from another.
    """
    check_lanes(lanes, ALL)
    with ExitStack() as stack:
        here = stack.enter_context(servers(bootstrap, redis_url, say))
        say(f"filling a topic with {records:,} transactions, and the state with {STATE}")
        topic = stack.enter_context(topic_of(here.bootstrap, "bench-transactions"))
        its = load(records)
        fill_topic(here.bootstrap, topic, its.coming)
        timing, blobs = state_of(its)
        write = partial(write_state, here.redis_url, timing)
        stack.callback(write, {})
        reset = partial(write, blobs)
        stage = Stage(here.bootstrap, here.redis_url, topic, records, reset, here.pids)
        runs = _rounds(stage, lanes, rounds, say)
        environment = environment_of(here, records, rounds)
    agree(runs)
    return summary(runs, environment)


class Servers(NamedTuple):
    """Where a benchmark runs, what these are, and the process ids of those that are ours."""

    bootstrap: str
    kafka: str
    redis_url: str
    redis: str
    pids: Mapping[str, int]


@contextmanager
def servers(
    bootstrap: str | None, redis_url: str | None, say: Callable[[str], None]
) -> Iterator[Servers]:
    """Those that are given, else a Kafka and a Redis of our own as long as the block runs."""
    say("starting Kafka and Redis")
    with ExitStack() as stack:
        kafka = stack.enter_context(pick_kafka(bootstrap))
        kind, pids = "given", {"kafka": kafka.pid} if isinstance(kafka, Server) else {}
        if redis_url is None:
            redis = stack.enter_context(redis_server())
            redis_url, kind, pids["redis"] = redis.url, redis.kind, redis.pid
        yield Servers(kafka.bootstrap, kafka.kind, redis_url, kind, pids)


@contextmanager
def spent(pids: Mapping[str, int], n: int) -> Iterator[dict[str, float]]:
    """What these processes use meanwhile, in CPU µs for each of `n`; filled when the block ends."""
    found: dict[str, float] = {}
    before_s = _cpu_s(pids)
    yield found
    for name, after_s in _cpu_s(pids).items():
        found[name] = round(1e6 * (after_s - before_s[name]) / n, 2)


def _cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far; none where the system has no /proc."""
    found = {}
    for name, pid in pids.items():
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def check_lanes(wanted: Sequence[str], there: Mapping[str, object]) -> None:
    """Raise ConfigError for a lane that is not there."""
    unknown = set(wanted) - set(there)
    if unknown:
        raise ConfigError(f"no such lane: {', '.join(sorted(unknown))}; there are {list(there)}")


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report as a table."""
    table = Table(title="Throughput: draining a full topic, one process each")
    table.add_column("lane")
    for heading in ("tx/s", "CPU µs/tx", "min-max tx/s", "Riskwire is"):
        table.add_column(heading, justify="right")
    for name in ALL:
        if name in report:
            lane = report[name]
            ratio = report["ratios"].get(f"riskwire_vs_{name}")
            table.add_row(
                name,
                f"{lane['tx_per_s']:,.0f}",
                f"{lane['cpu_us_per_tx']:.2f}",
                *(shown(lane["servers_us_per_tx"].get(each)) for each in THEIRS),
                f"{lane['min_tx_per_s']:,.0f}-{lane['max_tx_per_s']:,.0f}",
                f"{ratio:.2f} x" if ratio else "",
            )
    console.print(table)
    cold = [n for n in ALL if not all(r["warmed"] for r in report.get(n, {}).get("runs", ()))]
    if cold:
        console.print(f"too few records: start-up is part of the figures of {', '.join(cold)}")
    where = report["environment"]
    console.print(f"state at the start, in Redis: {where['state']}")
    console.print(f"{where['cpu']}, {where['cores']} cores; {where['kafka']}; {where['redis']}")


def shown(us: float | None) -> str:
    """CPU µs in a table; nothing where it is not known."""
    return "" if us is None else f"{us:.2f}"


def _rounds(
    stage: Stage, lanes: Sequence[str], rounds: int, say: Callable[[str], None]
) -> dict[str, list[Result]]:
    if rounds > 1:
        say("warming the broker: one run that does not count")
        _lane(ALL[lanes[0]], stage)
    runs: dict[str, list[Result]] = {name: [] for name in lanes}
    for number in range(rounds):
        for name in lanes if number % 2 == 0 else reversed(lanes):
            runs[name].append(_lane(ALL[name], stage))
            say(f"round {number + 1}, {name}: {runs[name][-1].tx_per_s:,.0f} tx/s")
    return runs


def _lane(lane: Lane, stage: Stage) -> Result:
    """One run, in a new group, to output topics of its own."""
    n = min(stage.records, max(10_000, int(stage.records * lane.share)))
    if lane.scores:
        stage.reset()
    with topic_of(stage.bootstrap, "bench-scores", OUTPUTS) as scores:
        with spent(stage.pids, n) as theirs:
            found = program(
                f"app.bench.lanes.{lane.module}",
                *("--bootstrap", stage.bootstrap, "--topic", stage.topic),
                *("--group", f"bench-{uuid.uuid4().hex}", "--redis", stage.redis_url),
                *("--n", str(n), "--warm", str(int(n * WARM_SHARE)), "--scores", scores),
                *lane.arguments,
            )
        digests = _verified(stage.bootstrap, scores, found["read"]) if lane.scores else {}
    tx_per_s, cpu_us = found["tx"] / found["seconds"], 1e6 * found["cpu_s"] / found["tx"]
    return Result(tx_per_s, cpu_us, found["read"], digests, found["warmed"], theirs)


def _verified(bootstrap: str, scores: str, read: int) -> dict[str, str]:
    """The digests of a lane's scores; raises Unavailable unless each record read has just one."""
    found = program("app.bench.lanes.verify", "--bootstrap", bootstrap, "--topic", scores)
    if found["records"] < read or not found["complete"]:
        raise Unavailable(f"a lane read {read} records and wrote these scores: {found}")
    return dict(found["digests"])


def agree(runs: Mapping[str, Sequence[Result]]) -> None:
    """Raise Unavailable where two lanes scored the same transactions differently."""
    said = [(name, *pair) for name, rs in runs.items() for r in rs for pair in r.digests.items()]
    if len({digest for _, _, digest in said}) > len({partition for _, partition, _ in said}):
        raise Unavailable(f"lanes scored the same transactions differently: {sorted(set(said))}")


def program(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in a process of its own; its JSON line."""
    return ran([sys.executable, "-m", module, *arguments])


def ran(command: Sequence[str]) -> dict[str, Any]:
    """Run a program; its JSON line. Raises Unavailable where it fails or takes too long."""
    what = " ".join(command[:5])
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, text=True, timeout=LANE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what} did not end within {LANE_TIMEOUT_S} s") from None
    if done.returncode:
        raise Unavailable(f"{what} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def topic_of(bootstrap: str, name: str, endings: Sequence[str] = ("",)) -> Iterator[str]:
    """A new topic, and others of the same name with these endings; deleted afterwards."""
    topic = f"{name}-{uuid.uuid4().hex[:8]}"
    topics = [topic + ending for ending in endings]
    config = {"message.timestamp.type": "LogAppendTime"}
    create_topics(bootstrap, dict.fromkeys(topics, PARTITIONS), config)
    try:
        yield topic
    finally:
        delete_topics(bootstrap, topics)


def summary(runs: Mapping[str, Sequence[Result]], environment: dict[str, Any]) -> dict[str, Any]:
    """Medians of each lane over the rounds, the ratios of those, and where they were measured."""
    report: dict[str, Any] = {}
    for name, results in runs.items():
        rates = [result.tx_per_s for result in results]
        cpu = statistics.median(result.cpu_us_per_tx for result in results)
        theirs = {
            each: statistics.median(result.servers_us_per_tx[each] for result in results)
            for each in results[0].servers_us_per_tx
        }
        report[name] = {
            "tx_per_s": round(statistics.median(rates), 1),
            "cpu_us_per_tx": round(cpu, 3),
            "servers_us_per_tx": theirs,
            "min_tx_per_s": round(min(rates), 1),
            "max_tx_per_s": round(max(rates), 1),
            "runs": [asdict(result) for result in results],
        }
    pairs = [(ours, peer) for ours, peer in RATIOS if ours in report and peer in report]
    rate = {f"{a}_vs_{b}": report[a]["tx_per_s"] / report[b]["tx_per_s"] for a, b in pairs}
    cpu_of = {
        f"{b}_cpu_vs_{a}": report[b]["cpu_us_per_tx"] / report[a]["cpu_us_per_tx"] for a, b in pairs
    }
    report["ratios"] = {name: round(value, 3) for name, value in (rate | cpu_of).items()}
    report["environment"] = environment
    return report


def environment_of(here: Servers, records: int, rounds: int) -> dict[str, Any]:
    """Where, and of how much, a report is."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text("utf-8").splitlines() if "model name" in line]
        cpu = names[0].partition(": ")[2] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kafka": here.kafka,
        "redis": here.redis,
        "partitions": PARTITIONS,
        "records": records,
        "state": STATE,
        "rounds": rounds,
        "load_1min": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in REPORTED_VERSIONS},
    }
