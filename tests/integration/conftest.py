"""Real servers for the tests of this folder; each is given the marker `integration`.

Kafka: RISKWIRE_TEST_BOOTSTRAP if given, else a container where Docker answers, else jars and Java.
Redis: RISKWIRE_TEST_REDIS_URL if given, else a container, else a redis-server of this machine.
Where one cannot be had, the tests that want it are left out, loudly (tests/conftest.py).
"""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from pydantic import SecretStr

from app.adapters.admin import create_topics, delete_topics
from app.adapters.memory import MemoryStore
from app.adapters.redis import RedisStore
from app.chaos.proxy import Proxy
from app.demo.cluster import (
    BOOTSTRAP_VARIABLE,
    Kafka,
    OwnKafka,
    jvm_kafka,
    pick_kafka,
    redis_server,
)
from app.demo.process import free_ports
from app.demo.redis_local import RedisServer
from app.errors import RiskwireError
from app.ports import StateStore
from tests.conftest import SERVERS, left_out
from tests.integration.containers import SomeRedis, docker_answers, docker_kafka, docker_redis

REDIS_VARIABLE = "RISKWIRE_TEST_REDIS_URL"
HERE = Path(__file__).parent


class Server(Protocol):
    """Kafka or Redis."""

    @property
    def kind(self) -> str:
        """What it is, for people."""


T = TypeVar("T", bound=Server)
MakeTopic = Callable[..., str]
Way = Callable[[], AbstractContextManager[T]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies in this folder is an integration test."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("integration")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Kafka]:
    """One real Apache Kafka for the whole run: use fresh topics and groups, do not stop it."""
    given = os.environ.get(BOOTSTRAP_VARIABLE)
    ways: list[Way[Kafka]] = [pick_kafka] if given else [*_own_kafka_ways()]
    with ExitStack() as stack:
        yield _first(request.config, stack, "Apache Kafka", ways)


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest) -> Iterator[OwnKafka]:
    """A real Apache Kafka of this test's own, to stop, kill and start again."""
    with ExitStack() as stack:
        yield _first(request.config, stack, "an Apache Kafka of our own", _own_kafka_ways())


@pytest.fixture(scope="module")
def proxied(request: pytest.FixtureRequest) -> Iterator[tuple[Kafka, Proxy]]:
    """A real Apache Kafka of this module's own, and a proxy whose clients reach it by no other way.

    Its own bootstrap address is for the tests themselves.
    """
    [port] = free_ports(1)
    with closing(Proxy(("127.0.0.1", port))) as proxy, ExitStack() as stack:
        way: Way[Kafka] = partial(jvm_kafka, proxied=[(port, proxy.port)])
        yield _first(request.config, stack, "an Apache Kafka behind a proxy", [way]), proxy


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """One real Redis for the whole run: use keys of your own, do not flush it."""
    given = os.environ.get(REDIS_VARIABLE)
    ways: list[Way[SomeRedis | RedisServer]] = [partial(redis_server, real=True)]
    if given:
        ways = [lambda: nullcontext(SomeRedis(given, f"the one given by {REDIS_VARIABLE}"))]
    elif docker_answers():
        ways = [docker_redis, *ways]
    with ExitStack() as stack:
        yield _first(request.config, stack, "Redis", ways).url


@pytest.fixture
def own_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A real Redis of this test's own, to stop, kill and start again (empty then)."""
    with ExitStack() as stack:
        way: Way[RedisServer] = partial(redis_server, real=True)
        yield _first(request.config, stack, "a Redis of our own", [way])


@pytest.fixture
def topic(kafka: Kafka) -> Iterator[MakeTopic]:
    """Makes fresh topics: `topic("scores", partitions=4)` gives a name that nobody else uses."""
    made: list[str] = []

    def make(name: str = "topic", partitions: int = 4, **config: str) -> str:
        made.append(f"{name}-{uuid.uuid4().hex[:12]}")
        settings = {key.replace("_", "."): value for key, value in config.items()}
        create_topics(kafka.bootstrap, {made[-1]: partitions}, settings)
        return made[-1]

    yield make
    if made:
        delete_topics(kafka.bootstrap, made)


def _own_kafka_ways() -> list[Way[OwnKafka]]:
    return [docker_kafka, jvm_kafka] if docker_answers() else [jvm_kafka]


def _first(config: pytest.Config, stack: ExitStack, what: str, ways: Sequence[Way[T]]) -> T:
    """Enter the first way that works on this machine; leaves the tests out where none does."""
    refused: list[str] = []
    for way in ways:
        try:
            server = stack.enter_context(way())
        except RiskwireError as error:
            refused.append(str(error))
        else:
            kinds = [server.kind, *(f"not {why}" for why in refused)]
            config.stash.setdefault(SERVERS, {})[what] = "; ".join(kinds)
            return server
    raise left_out(config, what, "; ".join(refused))


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store on the server of the tests."""
    store = RedisStore(SecretStr(redis_url), timeout_ms=2000)
    yield store
    await store.close()


@pytest.fixture(params=["redis", "memory"])
def either(request: pytest.FixtureRequest) -> StateStore:
    """Each implementation of the state store."""
    if request.param == "memory":
        return MemoryStore()
    found: RedisStore = request.getfixturevalue("store")
    return found
