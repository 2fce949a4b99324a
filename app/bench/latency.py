"""`riskwire bench latency`: from due time to readable, by a reader of committed scores.

Starts its own Kafka and Redis unless it is given some. For each rate and each delivery guarantee:
new topics, the state of a past, a worker process, a sender that sends each payment at its due time
whatever happens (a payment's event time is its due time, so a late sender shortens nothing), and an
independent reader in a process of its own. What warms the worker up does not count. A run is only
believed if the reader finds one score for each payment. All run on this machine's cores, so its
load average stands beside the figures. Raises ConfigError or Unavailable.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from app.adapters.admin import delete_topics
from app.adapters.topics import apply_topics, wanted_topics
from app.bench.load import WORLD
from app.bench.throughput import servers
from app.config import Settings
from app.demo.process import free_ports
from app.demo.run import demo_settings, fill_store
from app.demo.traffic import divided
from app.demo.worker import WorkerProcess
from app.errors import ConfigError, Unavailable
from models.manifest import read

Guarantee = Literal["exactly_once", "at_least_once"]
GUARANTEES: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
GOAL_P50_MS, GOAL_P99_MS = 20.0, 60.0
WARM_RECORDS = 100_000
"""So many that each customer and terminal was met."""
BROKER_WARM_S = 30.0
"""A Kafka that has just started compiles for half a core in its first minute of transactions."""
END_S = 20.0
"""How long a program may take to end after its work."""


def run(
    *,
    rates: Sequence[float] = (2_000.0, 20_000.0),
    seconds: float = 20.0,
    warm: int = WARM_RECORDS,
    guarantees: Sequence[Guarantee] = GUARANTEES,
    bootstrap: str | None = None,
    redis_url: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure; the report: `runs`, one a rate and guarantee, and `environment`.

    `say` is told what happens. Raises Unavailable where scores are missing or doubled.
    """
    with ExitStack() as stack:
        here = stack.enter_context(servers(bootstrap, redis_url, say))
        if bootstrap is None:
            say(f"letting Kafka compile its own code for {BROKER_WARM_S:.0f} s, which do not count")
            settings = settings_of(here.bootstrap, here.redis_url, GUARANTEES[0])
            _measured(settings, min(rates), BROKER_WARM_S, warm)
        runs = []
        for rate in rates:
            for guarantee in guarantees:
                settings = settings_of(here.bootstrap, here.redis_url, guarantee)
                found = _measured(settings, rate, seconds, warm)
                runs.append({"rate": rate, "delivery": guarantee, **found})
                say(f"{rate:,.0f}/s {guarantee}: p50 {found['p50_ms']}, p99 {found['p99_ms']} ms")
        where = {"kafka": here.kafka, "cores": os.cpu_count(), "seconds": seconds}
    return {"runs": runs, "environment": where}


def rates_of(text: str) -> list[float]:
    """Rates as given on a command line; raises ConfigError for what is none."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = [0.0]
    if min(rates) < 1:
        raise ConfigError(f"{text!r} are no rates; write 2000,20000")
    return rates


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report as a table."""
    table = Table(title="Latency: due time to readable by a reader of committed scores")
    table.add_column("delivery")
    for heading in ("tx/s", "p50 ms", "p99 ms", "max ms", "sender late ms", "CPU µs/tx", "load"):
        table.add_column(heading, justify="right")
    for each in report["runs"]:
        table.add_row(
            each["delivery"],
            f"{each['rate']:,.0f}",
            *(f"{each[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms", "late_ms")),
            f"{each['cpu_us_per_tx']:.1f}",
            f"{each['load_1min']:.1f}",
        )
    console.print(table)
    where = report["environment"]
    console.print(f"goal exactly once: p50 {GOAL_P50_MS:.0f} ms, p99 {GOAL_P99_MS:.0f} ms")
    console.print(f"{where['cores']} cores for all of it; {where['kafka']}; {where['seconds']} s")


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


def _measured(settings: Settings, rate: float, seconds: float, warm: int) -> dict[str, Any]:
    n = warm + int(rate * seconds)
    at = ("--bootstrap", settings.bootstrap_servers)
    with _worker(settings) as worker:
        counts = ("--n", str(n), "--warm", str(warm))
        reading = ("--topic", settings.topic("scores"), *counts)
        sending = ("--topic", settings.topic("transactions"), *counts, "--rate", str(rate))
        with _program("readable", *at, *reading) as reader:
            next(reader)
            with _program("paced", *at, *sending) as sender:
                start_s = next(sender)["start_us"] / 1e6
                time.sleep(max(0.0, start_s - time.time()))
                before = _scraped(worker)
                sent = next(sender)
                after = _scraped(worker)
            found = next(reader)
    if not found.pop("complete"):
        raise Unavailable(f"{n:,} payments were sent, and these scores found: {found}")
    (cpu_0_s, scored_0), (cpu_1_s, scored_1) = before, after
    return {
        **found,
        "late_ms": sent["late_ms"],
        "cpu_us_per_tx": round(1e6 * (cpu_1_s - cpu_0_s) / max(1.0, scored_1 - scored_0), 2),
        "load_1min": round(os.getloadavg()[0], 2),
    }


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
