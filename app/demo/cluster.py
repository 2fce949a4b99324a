"""Clusters as context managers: one set of objects for the demo, the tests and the benchmarks.

`embedded_kafka` (in this process), `jvm_kafka` (a real one, no Docker), `pick_kafka` (the one that
is given, else a real one), `redis_server`. All listen on loopback and keep nothing after their end.
They raise ConfigError, saying what to install, where the machine lacks something.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from app.adapters.admin import answers
from app.adapters.mock_cluster import MockCluster
from app.demo.kafka_jvm import JvmKafka
from app.demo.process import sigterm_unwinds
from app.demo.redis_local import Kind, RedisServer, choose
from app.errors import ConfigError, Unavailable

BOOTSTRAP_VARIABLE = "RISKWIRE_TEST_BOOTSTRAP"


class Kafka(Protocol):
    """A Kafka cluster that the demo, a test or a benchmark uses."""

    @property
    def kind(self) -> str:
        """What it is, for people."""

    @property
    def bootstrap(self) -> str:
        """host:port, for clients."""


class OwnKafka(Kafka, Protocol):
    """One that we started, and so may stop, kill and start again on the same data and address."""

    def start(self) -> None:
        """Start and wait until it answers; raises Unavailable."""

    def stop(self) -> None:
        """End it politely."""

    def kill(self) -> None:
        """End it as a crash would."""


class GivenKafka:
    """A cluster that was there before us; we only use it."""

    def __init__(self, bootstrap: str) -> None:
        """Raises Unavailable where it does not answer."""
        if not answers(bootstrap, timeout_s=10.0):
            raise Unavailable(f"no Kafka answers at {bootstrap}")
        self.bootstrap = bootstrap
        self.kind = f"the Kafka at {bootstrap}"


@contextmanager
def embedded_kafka(topics: Mapping[str, int] | None = None) -> Iterator[MockCluster]:
    """A mock cluster in this process, with topics of these partition counts."""
    cluster = MockCluster(topics)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def jvm_kafka(
    directory: Path | None = None,
    *,
    partitions: int = 4,
    properties: Mapping[str, str] | None = None,
    proxied: Sequence[tuple[int, int]] = (),
) -> Iterator[JvmKafka]:
    """A running Apache Kafka; `partitions`, `properties` and `proxied` are broker settings."""
    with sigterm_unwinds(), _directory(directory, "kafka") as place:
        broker = JvmKafka(place, partitions, properties or {}, proxied)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


@contextmanager
def pick_kafka(bootstrap: str | None = None) -> Iterator[Kafka]:
    """The cluster given here or by RISKWIRE_TEST_BOOTSTRAP, else a real one of our own."""
    given = bootstrap or os.environ.get(BOOTSTRAP_VARIABLE)
    if given:
        yield GivenKafka(given)
    else:
        with jvm_kafka() as broker:
            yield broker


@contextmanager
def redis_server(
    kind: Kind | None = None, directory: Path | None = None, *, real: bool = False
) -> Iterator[RedisServer]:
    """A running Redis of that kind, else the best there is; `real` refuses the fake."""
    chosen = choose(kind)
    if real and chosen == "fakeredis":
        raise ConfigError("no real Redis here: install redis-server")
    with sigterm_unwinds(), _directory(directory, "redis") as place:
        server = RedisServer(chosen, place)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def _directory(given: Path | None, name: str) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix=f"riskwire-{name}-") as place:
        yield Path(place)
