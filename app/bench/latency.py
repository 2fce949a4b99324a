"""`riskwire bench latency`: from due time to readable, by a reader of committed scores, open loop.

Starts its own Kafka and Redis unless it is given some. For each load and delivery guarantee: new
topics, the state of a past, a worker process, a sender that sends each payment at its due time
whatever happens (a payment's event time is its due time, so a late sender shortens nothing), and an
independent reader in a process of its own. Beside it the floor: the same by `lanes.echo`, which
only passes records on. What warms up does not count. A run is only believed if the reader finds one
record for each payment, and is `void` where the sender itself was late by more than a tenth of the
99th percentile. All run on this machine's cores. Raises ConfigError or Unavailable.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from app.adapters.admin import delete_topics
from app.adapters.topics import apply_topics, wanted_topics
from app.bench.arrivals import WINDOW_S, Arrivals, burst_s, count
from app.bench.given import numbers
from app.bench.load import WORLD
from app.bench.throughput import Servers, environment_of, servers, topic_of
from app.config import Settings
from app.demo.process import free_ports
from app.demo.run import demo_settings, fill_store
from app.demo.traffic import divided
from app.demo.worker import WorkerProcess
from app.errors import ConfigError, Unavailable
from models.manifest import read

Guarantee = Literal["exactly_once", "at_least_once"]
GUARANTEES: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
SHARES = (0.05, 0.10, 0.25, 0.50, 0.70, 0.80, 0.90, 0.95, 1.05)
"""Of the sustainable rate: the loads of a whole curve."""
GOAL_ONCE = "p50 20 ms and p99 60 ms"
WARM_RECORDS = 100_000
"""So many that each customer and terminal was met."""
BROKER_WARM_S = 30.0
"""A Kafka that has just started compiles for half a core in its first minute of transactions."""
SLIP_SHARE_MAX = 0.1
END_S = 20.0
"""How long a program may take to end after its work."""
Say = Callable[[str], None]
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One load: `rate` a second; `stall_ms` is for how long the worker is stopped midway."""

    rate: float
    seconds: float
    arrivals: Arrivals = "constant"
    guarantee: Guarantee = "exactly_once"
    warm: int = WARM_RECORDS
    stall_ms: float = 0.0

    @property
    def n(self) -> int:
        """Payments in all."""
        return self.warm + count(self.arrivals, self.rate, self.seconds)


def run(
    trials: Sequence[Trial],
    *,
    echo: bool = True,
    bootstrap: str | None = None,
    redis_url: str | None = None,
    say: Say = lambda _line: None,
) -> Found:
    """Measure; the report: `runs`, one or two (with `echo`) a trial, and `environment`."""
    with opened(bootstrap, redis_url, say) as here:
        runs = measured(trials, here, say, echo=echo)
        records = sum(trial.n for trial in trials)
        return {"runs": runs, "environment": environment_of(here, records, 1)}


@contextmanager
def opened(bootstrap: str | None, redis_url: str | None, say: Say) -> Iterator[Servers]:
    """Servers that are warm; raises ConfigError where the extra `bench` is not installed."""
    if find_spec("hdrh") is None:
        raise ConfigError("this benchmark needs hdrhistogram: install riskwire with extra `bench`")
    with servers(bootstrap, redis_url, say) as here:
        if bootstrap is None:
            say(f"letting Kafka compile its own code for {BROKER_WARM_S:.0f} s, which do not count")
            riskwire(here, Trial(2_000.0, BROKER_WARM_S))
        yield here


def measured(trials: Sequence[Trial], here: Servers, say: Say, *, echo: bool) -> list[Found]:
    """Each trial by Riskwire, and by the echo where that is wanted."""
    runs = []
    for trial in trials:
        for name, lane in {"echo": echoed, "riskwire": riskwire}.items():
            if name == "echo" and (not echo or trial.stall_ms):
                continue
            found = judged(trial, lane(here, trial))
            runs.append({"system": name, **described(trial), **found})
            void = " VOID, the sender was late" if found["void"] else ""
            say(
                f"{trial.rate:,.0f}/s {trial.arrivals}, {trial.guarantee}, {name}: "
                f"p50 {found['p50_ms']:.1f}, p99 {found['p99_ms']:.1f} ms{void}"
            )
    return runs


def described(trial: Trial) -> Found:
    """A trial as a report names it."""
    return {
        "rate": trial.rate,
        "delivery": trial.guarantee,
        "arrivals": trial.arrivals,
        "seconds": trial.seconds,
        "stall_ms": trial.stall_ms,
    }


def judged(trial: Trial, found: Found) -> Found:
    """With what follows from it: `void`, and after a burst `recovered_s`."""
    found["void"] = found["slip_p99_ms"] > SLIP_SHARE_MAX * found["p99_ms"]
    if trial.arrivals == "burst":
        found["recovered_s"] = recovered_s(trial, found["course"])
    return found


def recovered_s(trial: Trial, course: Sequence[float]) -> float | None:
    """Seconds from a burst's end until a window's worst is at most twice the median before it."""
    begin, end = (int(at / WINDOW_S) for at in burst_s(trial.n - trial.warm, trial.rate))
    usual = sorted(course[:begin])[begin // 2] if begin else 0.0
    well = (at for at, worst in enumerate(course) if at > end and worst <= 2 * usual)
    first = next(well, None)
    return None if first is None else round((first - end) * WINDOW_S, 1)


def rates_of(text: str) -> list[float]:
    """Rates as given on a command line; raises ConfigError for what is none."""
    return numbers(text, float, "rates", "2000,20000")


def guarantee_of(text: str) -> Guarantee:
    """The guarantee of that name; raises ConfigError for what is none."""
    for each in GUARANTEES:
        if each == text:
            return each
    raise ConfigError(f"no such guarantee: {text}; there are {', '.join(GUARANTEES)}")


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report as a table."""
    table = Table(title="Latency: due time to readable by a reader of committed records")
    for heading in ("delivery", "arrivals", ""):
        table.add_column(heading)
    heads = ("tx/s", "p50 ms", "p99", "p99.9", "max", "in process p99", "slip p99", "CPU µs/tx")
    for heading in heads:
        table.add_column(heading, justify="right")
    for each in report["runs"]:
        inside = each.get("in_process", {}).get("p99_ms")
        cpu = each.get("cpu_us_per_tx")
        table.add_row(
            each["delivery"],
            each["arrivals"],
            each["system"] + (" (void)" if each["void"] else ""),
            f"{each['rate']:,.0f}",
            *(f"{each[name]:.1f}" for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
            "" if inside is None else f"{inside:.1f}",
            f"{each['slip_p99_ms']:.2f}",
            "" if cpu is None else f"{cpu:.1f}",
        )
    console.print(table)
    for each in report["runs"]:
        if "recovered_s" in each:
            after = each["recovered_s"]
            said = "not in this run" if after is None else f"{after} s after its end"
            console.print(f"burst at {each['rate']:,.0f}/s, {each['system']}: recovered {said}")
    where = report["environment"]
    console.print(f"goal exactly once: {GOAL_ONCE}; void: the sender was late itself")
    console.print(f"{where['cpu']}, {where['cores']} cores for all of it; {where['kafka']}")


def settings_of(bootstrap: str, redis_url: str, guarantee: Guarantee) -> Settings:
    """The defaults, on topics and keys that nobody else has."""
    name = f"latency-{uuid.uuid4().hex[:8]}"
    own: dict[str, object] = {
        "delivery": guarantee,
        "consumer_options": {},
        "group_id": name,
        "topic_prefix": f"{name}-",
        "state_namespace": name,
        "worker_id": name,
    }
    return demo_settings(bootstrap, redis_url).model_copy(update=own)


def riskwire(here: Servers, trial: Trial) -> Found:
    """One run of a worker; raises Unavailable where scores are missing or doubled."""
    settings = settings_of(here.bootstrap, here.redis_url, trial.guarantee)
    with _worker(settings) as worker:
        marks: list[tuple[float, float]] = []

        def stall() -> None:
            if trial.stall_ms:
                os.kill(worker.pid, signal.SIGSTOP)
                time.sleep(trial.stall_ms / 1000)
                os.kill(worker.pid, signal.SIGCONT)

        found = _sent_and_read(
            here, trial, settings.topic("transactions"), settings.topic("scores"), "risk_score",
            lambda: marks.append(_scraped(worker)), stall,
        )  # fmt: skip
    (cpu_0_s, scored_0), (cpu_1_s, scored_1) = marks
    spent_us = 1e6 * (cpu_1_s - cpu_0_s)
    return {**found, "cpu_us_per_tx": round(spent_us / max(1.0, scored_1 - scored_0), 2)}


def echoed(here: Servers, trial: Trial) -> Found:
    """One run of the echo, on the same Kafka."""
    trial = replace(trial, warm=min(trial.warm, int(2 * trial.rate)))
    with ExitStack() as stack:
        topic = stack.enter_context(topic_of(here.bootstrap, "bench-echo"))
        out = stack.enter_context(topic_of(here.bootstrap, "bench-echoed"))
        echo = stack.enter_context(
            _program(
                "echo", *("--bootstrap", here.bootstrap, "--topic", topic, "--scores", out),
                *("--group", f"echo-{topic}", "--delivery", trial.guarantee, "--n", str(trial.n)),
            )
        )  # fmt: skip
        next(echo)
        return _sent_and_read(here, trial, topic, out, "transaction", lambda: None, lambda: None)


def _sent_and_read(
    here: Servers, trial: Trial, topic: str, out: str, schema: str,
    mark: Callable[[], None], stall: Callable[[], None],
) -> Found:  # fmt: skip
    """What the reader found; `mark` is called where what counts begins and ends."""
    counts = ("--n", str(trial.n), "--warm", str(trial.warm))
    at = ("--bootstrap", here.bootstrap)
    with _program("readable", *at, "--topic", out, *counts, "--schema", schema) as reader:
        next(reader)
        pace = ("--rate", str(trial.rate), "--arrivals", trial.arrivals)
        with _program("paced", *at, "--topic", topic, *counts, *pace) as sender:
            start_s = next(sender)["start_us"] / 1e6
            time.sleep(max(0.0, start_s - time.time()))
            mark()
            time.sleep(max(0.0, start_s + trial.seconds / 2 - time.time()))
            stall()
            sent = next(sender)
            mark()
        found = next(reader)
    if not found.pop("complete"):
        raise Unavailable(f"{trial.n:,} payments were sent, and these records came: {found}")
    load = {"load_1min": round(os.getloadavg()[0], 2)}
    return found | {name: sent[name] for name in ("slip_p99_ms", "late_ms")} | load


@contextmanager
def _worker(settings: Settings) -> Iterator[WorkerProcess]:
    """A ready worker on new topics, with the state of a past."""
    [port] = free_ports(1)
    settings = settings.model_copy(update={"http_port": port})
    apply_topics(settings)
    past, _ = divided(WORLD, 1, time.time_ns() // 1000)
    fill_store(settings, read(settings.model).manifest.timing, past)
    with tempfile.TemporaryDirectory(prefix="riskwire-latency-") as place:
        worker = WorkerProcess(settings, Path(place))
        try:
            worker.start()
            yield worker
        finally:
            worker.stop()
            names = [topic.name for topic in wanted_topics(settings)]
            delete_topics(settings.bootstrap_servers, names)


def _scraped(worker: WorkerProcess) -> tuple[float, float]:
    """The worker's CPU seconds, and how many transactions it scored."""
    lines = worker.metrics().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    scored = found['riskwire_records_total{outcome="scored"}']
    return float(found["process_cpu_seconds_total"]), float(scored)


@contextmanager
def _program(module: str, *arguments: str) -> Iterator[Iterator[dict[str, Any]]]:
    """A program of `app.bench.lanes` that runs; the lines that it prints as they come."""
    command = [sys.executable, "-P", "-m", f"app.bench.lanes.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield _lines(module, child)
            child.wait(END_S)
        finally:
            child.kill()


def _lines(module: str, child: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert child.stdout is not None  # noqa: S101 -- it was asked for
    for line in child.stdout:
        yield json.loads(line)
    raise Unavailable(f"{module} ended with status {child.wait()} before its work was done")
