"""`riskwire demo`: the whole product on this machine, with nothing but what pip installed.

Starts a Kafka (librdkafka's mock cluster, in this process) and a Redis, fills the online store
from simulated history, starts the same worker as in production in a process of its own, sends it
payments and some broken records, and shows what comes out. The settings of the environment do not
enter, but for the model and how it runs. Raises ConfigError or Unavailable where a part does not
start.
"""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from rich.console import Console

from app.adapters.follow import Follower
from app.adapters.redis import RedisStore
from app.adapters.topics import wanted_topics
from app.adapters.traffic import Sent, send
from app.backfill import Written, backfill, simulated
from app.config import PREFIX, Settings, load_settings
from app.demo.cluster import embedded_kafka, redis_server
from app.demo.display import Display, show_summary
from app.demo.outcome import Outcome
from app.demo.process import LOG_TAIL_BYTES, Server, free_ports
from app.demo.traffic import Due
from app.errors import ConfigError, Unavailable
from app.produce import traffic
from models.simulate import Population

# The mock cluster keeps 5 MB a partition, of which there are 4; a score is 300 bytes long.
TRANSACTIONS_MAX = 50_000
BROKEN = 9
HISTORY_DAYS = 28
START_TIMEOUT_S = 180.0
QUIET_S_MAX = 10.0
STOP_S_MAX = 5.0
LOOK_EVERY_S = 0.1
KEPT = ("model", "providers", "transport")
OUTPUTS: tuple[Literal["scores", "alerts", "dead_letters"], ...] = (
    "scores",
    "alerts",
    "dead_letters",
)


class WorkerProcess(Server):
    """A worker as the command line starts it; ready when it says so itself."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        """Prepare it; `start` raises Unavailable with the end of its log."""
        url = f"http://{settings.http_host}:{settings.http_port}/readyz"
        super().__init__(
            "the worker",
            # -P: a directory named `app` where the demo is started is not ours.
            [sys.executable, "-P", "-m", "app.cli", "worker"],
            directory / "worker.log",
            lambda: _says_ready(url),
            start_timeout_s=START_TIMEOUT_S,
            environment=environment(settings),
        )

    def finish(self) -> int:
        """Send SIGTERM and return its exit status; raises Unavailable if it takes too long."""
        child = self._child
        if child is None:
            raise Unavailable("the worker is not running")
        child.send_signal(signal.SIGTERM)
        try:
            return child.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._fail(f"did not stop within {STOP_S_MAX:.0f} s")
            raise

    def log_end(self) -> str:
        """Return the last of what it logged."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")


def run(transactions: int, rate_per_s: float, seed: int, *, as_json: bool) -> int:
    """Run the demo; 0 if every record that went in came out as a score or a dead letter."""
    if transactions > TRANSACTIONS_MAX:
        raise ConfigError(
            f"the demo's Kafka keeps 5 MB a partition: at most {TRANSACTIONS_MAX:,} transactions;"
            " for more, use a Kafka of your own with `riskwire worker` and `riskwire produce`"
        )
    console = Console(stderr=as_json)
    display = Display(console)
    began = time.monotonic()
    population = Population(seed)
    with started(population, display) as (settings, worker, kinds):
        outcome = Outcome(settings)
        records = traffic(settings, population, rate_per_s, transactions, BROKEN)
        display.say(
            f"sending {transactions:,} payments at {rate_per_s:,.0f}/s, {BROKEN} broken ones"
        )
        with Follower(settings, [settings.topic(role) for role in OUTPUTS]) as follower, display:
            sent = watch(settings, records, follower, outcome, display)
        status = worker.finish()
        complete = sent.records == outcome.scored + outcome.dead
        if not complete or status:
            display.say(f"the end of the worker's log:\n{worker.log_end()}")
    summary = {
        **outcome.summary(sent.records),
        **kinds,
        "guarantee": "at least once",
        "sender_late_ms_max": round(sent.late_us_max / 1000, 1),
        "worker_exit": status,
        "seconds": round(time.monotonic() - began, 1),
    }
    show_summary(console, summary)
    if as_json:
        print(json.dumps(summary))  # noqa: T201 -- this is the product
    if not complete:
        console.print("[bold red]some records came out neither as a score nor as a dead letter[/]")
    return 0 if complete and status == 0 else 1


@contextmanager
def started(
    population: Population, display: Display
) -> Iterator[tuple[Settings, WorkerProcess, dict[str, str]]]:
    """Give a running cluster with a ready worker, and what kinds of Kafka and Redis it has."""
    with (
        tempfile.TemporaryDirectory(prefix="riskwire-demo-") as place,
        redis_server(directory=Path(place)) as redis,
        embedded_kafka() as kafka,
        ThreadPoolExecutor(1) as aside,
    ):
        settings = demo_settings(kafka.bootstrap, redis.url)
        for topic in wanted_topics(settings):
            kafka.create_topic(topic.name, topic.partitions)
        display.say(f"Kafka: {kafka.kind}\nRedis: {redis.kind}")
        worker = WorkerProcess(settings, Path(place))
        starting = aside.submit(worker.start)
        try:
            display.say("the worker starts (the first time, its loops are compiled: half a minute)")
            written = fill_store(settings, population)
            display.say(
                f"{written.transactions:,} past payments gave {written.customers:,} customer and"
                f" {written.terminals:,} terminal profiles"
            )
            starting.result()
            display.say(f"the worker is ready after {worker.start_s:.1f} s")
            yield settings, worker, {"kafka": kafka.kind, "redis": redis.kind}
        finally:
            worker.kill()


def watch(
    settings: Settings,
    records: Iterator[Due],
    follower: Follower,
    outcome: Outcome,
    display: Display,
) -> Sent:
    """Send in a thread, show what comes out meanwhile, and wait until all of it is there."""
    progress, stop = [Sent()], threading.Event()
    with ThreadPoolExecutor(1) as aside:
        going = takewhile(lambda _record: not stop.is_set(), records)
        sending = aside.submit(send, settings, going, lambda now: progress.__setitem__(0, now))
        heard_s = time.monotonic()
        try:
            while True:
                # Many at a time: what the demo itself computes is taken from the worker's cores.
                time.sleep(LOOK_EVERY_S)
                found = follower.poll(0)
                for alert in outcome.add(found):
                    display.alert(alert)
                display.counts(progress[0].records, outcome.scored, outcome.dead)
                if found or not sending.done():
                    heard_s = time.monotonic()
                    continue
                sent = sending.result()
                complete = outcome.scored + outcome.dead >= sent.records
                if complete or time.monotonic() - heard_s > QUIET_S_MAX:
                    return sent
        finally:
            stop.set()


def fill_store(settings: Settings, population: Population) -> Written:
    """Write the profiles of the days before now."""

    async def write() -> Written:
        store = RedisStore(settings.redis_url, settings.redis_timeout_ms)
        as_of_us = time.time_ns() // 1000
        try:
            return await backfill(store, simulated(population, HISTORY_DAYS, as_of_us), as_of_us)
        finally:
            await store.close()

    return asyncio.run(write())


def demo_settings(bootstrap: str, redis_url: str) -> Settings:
    """Return the defaults on that cluster; of the environment only KEPT enters."""
    [port] = free_ports(1)
    defaults: dict[str, Any] = {
        name: field.default for name, field in Settings.model_fields.items() if name not in KEPT
    }
    own = {
        "bootstrap_servers": bootstrap,
        "redis_url": SecretStr(redis_url),
        "http_port": port,
        "log_format": "console",
        # The mock cluster lets an empty fetch wait to its end, even if a record comes meanwhile.
        "consumer_options": {"fetch.wait.max.ms": "1"},
    }
    return load_settings(**(defaults | own))


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as variables, every one, so that no other source is asked for them."""
    shown = {name: _as_variable(getattr(settings, name)) for name in Settings.model_fields}
    return {PREFIX + name.upper(): value for name, value in shown.items() if value is not None}


def _as_variable(value: object) -> str | None:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return json.dumps(value)
    return None if value is None else str(value)


def _says_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 -- our own, on loopback
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
