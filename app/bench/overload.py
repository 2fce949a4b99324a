"""`riskwire bench overload`: three times what a worker can take, for minutes, then calm again.

First the peak: the worker drains a full topic, all of it scored in full. Then the burst: payments
come at a multiple of that, while the worker's memory, goodput, ages and assignment are watched; and
after it, how long it takes until no record waits a second. Kafka, Redis, sender and worker share
this machine, so the sender is part of the load, and whatever else runs: the cores that the worker
got are told beside what it did with them. Raises ConfigError or Unavailable.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.adapters.admin import delete_topics
from app.adapters.topics import wanted_topics
from app.bench.lanes.lane import PARTITIONS
from app.bench.load import STATE, load, state_of, write_state
from app.bench.throughput import program, servers
from app.bounds import memory_cap, process_memory
from app.config import Settings, load_settings
from app.demo.process import free_ports
from app.demo.worker import WorkerProcess
from app.errors import Unavailable
from app.prepare import apply

PEAK_RECORDS, WARM_SHARE = 1_500_000, 0.3
GOODPUT_MIN, CALM_S = 0.9, 1.0
SAMPLE_S, DRAIN_TIMES = 1.0, 5.0
START_S, PEAK_S_MAX = 120.0, 300.0
_LINE = re.compile(r"^(?:riskwire_)?(\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the worker: seconds since the burst began, counts since its start."""

    at_s: float
    scored: float
    age_s: float
    rss: int
    rss_max: int
    rebalances: float
    cpu_s: float
    shed: Mapping[str, float]


def run(
    *,
    seconds: float,
    factor: float,
    shed_after_ms: int,
    bootstrap: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure; `missed` in the report names the goals that were not reached."""
    with ExitStack() as stack:
        here = stack.enter_context(servers(bootstrap, None, say))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="riskwire-overload-")))
        settings = _settings(here.bootstrap, here.redis_url)
        say(f"making topics, and the state of {STATE}")
        apply(settings)
        names = [topic.name for topic in wanted_topics(settings)]
        stack.callback(delete_topics, here.bootstrap, names)
        write_state(here.redis_url, *state_of(load(1000)))
        program("app.bench.pour", *_where(settings), "--records", str(PEAK_RECORDS))
        say(f"the peak: draining {PEAK_RECORDS:,} transactions")
        with _worker(settings, place) as worker:
            peak, peak_cores = _peak(worker, settings)
        say(f"{peak:,.0f}/s; now {factor:g} times that, for {seconds:g} s")
        settings = settings.model_copy(update={"shed_after_ms": shed_after_ms})
        with _worker(settings, place) as worker:
            samples, sent, burst_s = _burst(worker, settings, factor * peak, seconds, say)
    report = summary(samples, peak, sent, burst_s, memory_cap(settings).total)
    return report | {"peak_cores": peak_cores, "load_1min": round(os.getloadavg()[0], 1)}


def _settings(bootstrap: str, redis_url: str) -> Settings:
    [port] = free_ports(1)
    name = f"overload-{uuid.uuid4().hex[:8]}"
    return load_settings(
        bootstrap_servers=bootstrap,
        redis_url=redis_url,
        group_id=name,
        topic_prefix=f"{name}-",
        partitions=PARTITIONS,
        state_customers_max=8192,
        state_shares_max=16_384 * PARTITIONS,
        http_port=port,
        log_level="WARNING",
    )


@contextmanager
def _worker(settings: Settings, place: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(settings, place)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def _where(settings: Settings) -> tuple[str, ...]:
    return ("--bootstrap", settings.bootstrap_servers, "--topic", settings.topic("transactions"))


def look(worker: WorkerProcess, settings: Settings, began_s: float) -> Sample:
    """What the worker says of itself, and the system of it."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in _LINE.findall(worker.metrics()):
        found.setdefault(name, {})[labels] = float(value)
    rss, rss_max = process_memory(worker.pid)
    transactions = f'topic="{settings.topic("transactions")}"'
    ages = found.get("oldest_record_age_seconds", {})
    return Sample(
        time.monotonic() - began_s,
        found["records_total"]['outcome="scored"'],
        max((age for labels, age in ages.items() if transactions in labels), default=0.0),
        rss,
        rss_max,
        sum(found["rebalances_total"].values()),
        found["process_cpu_seconds_total"][""],
        {labels[-2]: count for labels, count in found["shed_total"].items()},
    )


def _peak(worker: WorkerProcess, settings: Settings) -> tuple[float, float]:
    """Scores a second, and the cores that the worker got for them.

    From when rows of the state are full to the end of the topic.
    """
    began_s = time.monotonic()
    samples = [look(worker, settings, began_s)]
    while samples[-1].scored < PEAK_RECORDS:
        if samples[-1].at_s > PEAK_S_MAX:
            raise Unavailable(f"not drained in {PEAK_S_MAX:.0f} s\n{worker.log_end()}")
        time.sleep(SAMPLE_S / 4)
        samples.append(look(worker, settings, began_s))
    warm = next(s for s in samples if s.scored >= WARM_SHARE * PEAK_RECORDS)
    last = [s for s in samples if s.scored < PEAK_RECORDS][-1]  # the worker was busy until then
    if last.at_s <= warm.at_s:
        raise Unavailable("the topic was drained too quickly to say how quickly")
    return (last.scored - warm.scored) / (last.at_s - warm.at_s), _cores(warm, last)


def _cores(since: Sample, until: Sample) -> float:
    return round((until.cpu_s - since.cpu_s) / (until.at_s - since.at_s), 2)


def _burst(
    worker: WorkerProcess,
    settings: Settings,
    rate: float,
    seconds: float,
    say: Callable[[str], None],
) -> tuple[list[Sample], int, float]:
    """Samples during the burst and until calm; how many records were sent, in what time."""
    command = [sys.executable, "-m", "app.bench.pour", *_where(settings)]
    command += ["--rate", str(rate), "--seconds", str(seconds)]
    first = look(worker, settings, time.monotonic())
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            while look(worker, settings, 0).scored <= first.scored and sender.poll() is None:
                time.sleep(SAMPLE_S / 10)
            samples = [look(worker, settings, began_s := time.monotonic())]
            while sender.poll() is None:
                time.sleep(SAMPLE_S)
                samples.append(look(worker, settings, began_s))
            sent = json.loads(sender.communicate()[0])
        finally:
            sender.kill()
    burst_s = samples[-1].at_s
    say(f"sent {sent['sent']:,} in {sent['seconds']:.0f} s; waiting until nothing waits")
    while samples[-1].age_s >= CALM_S and samples[-1].at_s < DRAIN_TIMES * burst_s + START_S:
        time.sleep(SAMPLE_S / 2)
        samples.append(look(worker, settings, began_s))
    return samples, int(sent["sent"]), burst_s


def summary(
    samples: Sequence[Sample], peak: float, sent: int, burst_s: float, cap: int
) -> dict[str, Any]:
    """The figures of a run, and the goals that it missed."""
    burst = [s for s in samples if s.at_s <= burst_s]
    first, end, last = burst[0], burst[-1], samples[-1]
    goodput = (end.scored - first.scored) / (end.at_s - first.at_s)
    calm = last.age_s < CALM_S
    report = {
        "peak_per_s": round(peak),
        "sent_per_s": round(sent / burst_s),
        "goodput_per_s": round(goodput),
        "goodput_share": round(goodput / peak, 3),
        "goodput_cores": _cores(first, end),
        "rss_max": last.rss_max,
        "rss_first": first.rss,
        "memory_cap": cap,
        "rebalances": int(last.rebalances - first.rebalances),
        "shed": {level: int(count - first.shed[level]) for level, count in last.shed.items()},
        "scored": int(last.scored - first.scored),
        "burst_s": round(burst_s, 1),
        "age_s": [(round(s.at_s), round(s.age_s, 1)) for s in samples[:: len(samples) // 20 + 1]],
        "calm_after_s": round(last.at_s - burst_s, 1) if calm else None,
    }
    goals = {
        "memory under its cap": last.rss_max <= cap,
        f"goodput of {GOODPUT_MIN:.0%} of the peak": goodput >= GOODPUT_MIN * peak,
        "no rebalance": report["rebalances"] == 0,
        "calm again": calm,
    }
    return report | {"missed": [goal for goal, met in goals.items() if not met]}


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report."""
    mib = 1 << 20
    table = Table("", "", title="Overload", show_header=False)
    shed = ", ".join(f"level {level}: {n:,}" for level, n in report["shed"].items())
    calm = report["calm_after_s"]
    for name, said in (
        ("peak, in full", f"{report['peak_per_s']:,}/s on {report['peak_cores']:g} cores"),
        ("sent", f"{report['sent_per_s']:,}/s for {report['burst_s']:.0f} s"),
        ("goodput", f"{report['goodput_per_s']:,}/s on {report['goodput_cores']:g} cores"),
        ("of the peak", f"{report['goodput_share']:.0%}"),
        ("memory", f"{report['rss_max'] / mib:,.0f} MiB at most"),
        ("its cap", f"{report['memory_cap'] / mib:,.0f} MiB"),
        ("rebalances", f"{report['rebalances']}"),
        ("shed", f"{shed} of {report['scored']:,}"),
        ("oldest record, s", "  ".join(f"{at}: {age:g}" for at, age in report["age_s"])),
        ("no record waits 1 s", "never" if calm is None else f"{calm:.0f} s after the burst"),
        ("load of the machine", f"{report['load_1min']:g}"),
        ("missed", ", ".join(report["missed"]) or "nothing"),
    ):
        table.add_row(name, said)
    console.print(table)
