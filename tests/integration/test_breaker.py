"""A flood of poison on a real Kafka: intake pauses, the group stays, good traffic goes on."""

import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from pydantic import SecretStr

import schemas
from app.adapters.admin import delete_topics, fill
from app.adapters.dead_letters import scan
from app.adapters.topics import apply_topics, wanted_topics
from app.bench import load
from app.config import Settings, load_settings
from app.demo.cluster import Kafka
from app.demo.process import free_ports
from app.demo.traffic import encoded
from app.demo.worker import WorkerProcess

HEADER = schemas.load("transaction").single_object_header
GOOD, POISON = 300, 1600


@pytest.fixture
def settings(kafka: Kafka, redis_url: str) -> Iterator[Settings]:
    """Topics of our own, small batches and short pauses."""
    name = f"breaker-{uuid.uuid4().hex[:8]}"
    [port] = free_ports(1)
    settings = load_settings(
        bootstrap_servers=kafka.bootstrap, redis_url=SecretStr(redis_url), group_id=name,
        topic_prefix=f"{name}-", state_namespace=name, http_port=port, worker_id=name,
        batch_records_max=200, queue_batches_max=1, reject_records_min=200, breaker_pause_s=0.4,
        reject_share_max=0.5,
    )  # fmt: skip
    apply_topics(settings)
    yield settings
    delete_topics(kafka.bootstrap, [topic.name for topic in wanted_topics(settings)])


def asked(settings: Settings, path: str) -> str:
    """What a probe says, ready or not."""
    url = f"http://127.0.0.1:{settings.http_port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def metric(page: str, name: str) -> float:
    """A metric's value."""
    return float(next(line for line in page.splitlines() if line.startswith(name)).split()[-1])


def send_good(settings: Settings, first: int) -> None:
    """Send valid payments."""
    coming = load.load(GOOD).coming
    fill(
        settings.bootstrap_servers,
        settings.topic("transactions"),
        encoded(coming, "tx", first, HEADER),
    )


def readable(settings: Settings, topic: Literal["scores", "dead_letters"]) -> int:
    """How many records can be read of an output topic."""
    return sum(1 for _ in scan(settings, settings.topic(topic)))


def test_a_flood_of_poison_pauses_the_intake_and_good_traffic_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    """The topic is not drained, the partitions stay ours, every record is counted out at last."""
    open_, rejected = "riskwire_breaker_open", 'riskwire_records_total{outcome="rejected"}'
    transactions = settings.topic("transactions")
    its_breaker = f'{open_}{{topic="{transactions}"}}'
    worker = WorkerProcess(settings, tmp_path)

    def wait(condition: Callable[[], bool], timeout_s: float = 60) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                pages = [
                    line for line in asked(settings, "/metrics").splitlines() if line[0] != "#"
                ]
                raise AssertionError("\n".join([*pages, worker.log_end()]))
            time.sleep(0.02)

    worker.start()
    try:
        send_good(settings, 0)
        wait(lambda: readable(settings, "scores") == GOOD)
        poison = [(b"%d" % i, b"poison") for i in range(POISON)]
        fill(settings.bootstrap_servers, transactions, poison)
        pages = [""]

        def is_open() -> bool:
            pages.append(asked(settings, "/metrics"))
            return metric(pages[-1], its_breaker) == 1

        def scored(count: int) -> bool:
            return readable(settings, "scores") == count

        wait(is_open)
        assert metric(pages[-1], rejected) < POISON
        assert f"intake of {transactions} is paused" in asked(settings, "/readyz")
        assert readable(settings, "scores") == GOOD
        wait(lambda: readable(settings, "dead_letters") == POISON)
        sent = GOOD
        while is_open() and sent < 10 * GOOD:  # the last of the poison may have been a probe
            send_good(settings, sent)
            sent += GOOD
            wait(partial(scored, sent))
        assert not is_open()
        assert readable(settings, "dead_letters") == POISON
        assert "paused" not in asked(settings, "/readyz")
        log = (tmp_path / "worker.log").read_text()
        assert log.count("intake is paused") > 1  # probes were bad before one was good
        assert "partitions given up" not in log
    finally:
        worker.stop()
