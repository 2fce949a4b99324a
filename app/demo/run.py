"""`riskwire demo`: the whole product on this machine, with nothing but what pip installed.

Starts a Kafka (librdkafka's mock cluster, in this process) and a Redis, fills the online store
from the past of a simulated world, starts the same worker as in production in a process of its
own, sends it the payments that come next and some broken records, and shows what comes out. The
settings of the environment do not enter, but for the model and how it runs. Raises ConfigError or
Unavailable where a part does not start.
"""

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import SecretStr
from rich.console import Console

from app.adapters.follow import Follower
from app.adapters.topics import wanted_topics
from app.adapters.traffic import Sent, send
from app.backfill import Written, backfill, with_store
from app.config import Settings, load_settings
from app.demo.cluster import embedded_kafka, redis_server
from app.demo.display import Display, show_summary
from app.demo.outcome import Outcome
from app.demo.process import free_ports
from app.demo.traffic import HISTORY_DAYS, Due, divided, past_log
from app.demo.worker import WorkerProcess
from app.errors import ConfigError
from app.produce import traffic
from features.contract import Timing
from models.handbook import Payments, World
from models.manifest import read

# The mock cluster keeps 5 MB a partition, of which there are 4; a score is 300 bytes long.
TRANSACTIONS_MAX = 50_000
BROKEN = 9
DEMO_US_MAX = 600_000_000
QUIET_S_MAX = 10.0
LOOK_EVERY_S = 0.1
KEPT = ("model", "providers", "transport")
OUTPUTS: tuple[Literal["scores", "alerts", "dead_letters"], ...] = (
    "scores",
    "alerts",
    "dead_letters",
)


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
    past, coming = divided(World(seed), transactions, time.time_ns() // 1000)
    with started(past, display) as (settings, worker, kinds):
        outcome = Outcome(settings, np.flatnonzero(coming.fraud).tolist())
        records = traffic(settings, coming, rate_per_s, transactions, BROKEN)
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
    past: Payments, display: Display
) -> Iterator[tuple[Settings, WorkerProcess, dict[str, str]]]:
    """Give a running cluster with a ready worker, and what kinds of Kafka and Redis it has."""
    with (
        tempfile.TemporaryDirectory(prefix="riskwire-demo-") as place,
        redis_server(directory=Path(place)) as redis,
        embedded_kafka() as kafka,
    ):
        settings = demo_settings(kafka.bootstrap, redis.url)
        for topic in wanted_topics(settings):
            kafka.create_topic(topic.name, topic.partitions)
        manifest = read(settings.model).manifest
        display.say(f"Kafka: {kafka.kind}\nRedis: {redis.kind}\nmodel: {manifest.model_id}")
        written = fill_store(settings, manifest.timing, past)
        display.say(
            f"{written.transactions:,} payments of the last {HISTORY_DAYS} days, of"
            f" {written.customers:,} customers at {written.terminals:,} terminals"
        )
        worker = WorkerProcess(settings, Path(place))
        try:
            display.say("the worker starts (the first time, its loops are compiled: half a minute)")
            worker.start()
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


def fill_store(settings: Settings, timing: Timing, past: Payments) -> Written:
    """Write the state as the past left it; nobody owns it yet.

    It stands as of the demo's end, since the labels topic brings nothing: what no log can bring
    any more is not waited for, and no score is provisional.
    """
    as_of_us, log = time.time_ns() // 1000 + DEMO_US_MAX, past_log(past, timing)
    return asyncio.run(
        with_store(
            settings, lambda store: backfill(store, log, as_of_us, timing, settings.partitions)
        )
    )


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
        "delivery": "at_least_once",  # the mock cluster enforces no transactions
        # The mock cluster lets an empty fetch wait to its end, even if a record comes meanwhile.
        "consumer_options": {"fetch.wait.max.ms": "1"},
    }
    return load_settings(**(defaults | own))
