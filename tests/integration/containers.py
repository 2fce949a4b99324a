"""Apache Kafka and Redis in containers, for the tests where Docker answers.

testcontainers' own KafkaContainer only runs Confluent's images, so this one runs apache/kafka. Both
listen on loopback, on a port fixed beforehand: Kafka's advertised address must be known before it
starts, and stays over stop and start. Raises Unavailable for whatever Docker refuses.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis
from testcontainers.core.container import DockerContainer

from app.adapters.admin import answers
from app.demo.cluster import OwnKafka
from app.demo.kafka_jvm import VERSION, node_properties
from app.demo.process import free_ports
from app.errors import Unavailable

KAFKA_IMAGE = f"apache/kafka:{VERSION}"
REDIS_IMAGE = "redis:8"
START_TIMEOUT_S = 90.0


class DockerKafka:
    """A running apache/kafka container; see `OwnKafka`."""

    kind = f"{KAFKA_IMAGE} in Docker"

    def __init__(self, container: DockerContainer, bootstrap: str) -> None:
        """`container` runs and advertises `bootstrap`."""
        self.bootstrap = bootstrap
        self._container = container.get_wrapped_container()

    def start(self) -> None:
        """Start again on the same data."""
        self._container.start()
        _wait(lambda: answers(self.bootstrap), self.kind)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        self._container.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._container.kill()


@contextmanager
def docker_kafka(partitions: int = 4) -> Iterator[OwnKafka]:
    """Apache Kafka in a container."""
    [port] = free_ports(1)
    bootstrap = f"127.0.0.1:{port}"
    container = _container(KAFKA_IMAGE, 9092, port)
    for name, value in node_properties(
        (":9092", ":9093"),
        bootstrap,
        partitions,
        "/tmp/kafka-data",  # noqa: S108  inside the container
    ).items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    with _running(container, lambda: answers(bootstrap), DockerKafka.kind):
        yield DockerKafka(container, bootstrap)


@dataclass
class SomeRedis:
    """A Redis that is not ours to stop."""

    url: str
    kind: str


@contextmanager
def docker_redis() -> Iterator[SomeRedis]:
    """Redis in a container."""
    [port] = free_ports(1)
    url = f"redis://127.0.0.1:{port}/0"
    container = _container(REDIS_IMAGE, 6379, port)
    kind = f"{REDIS_IMAGE} in Docker"
    with _running(container, lambda: _pings(url), kind):
        yield SomeRedis(url, kind)


def docker_answers() -> bool:
    """Whether a Docker engine can be reached."""
    try:
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415  connects

        return bool(DockerClient().client.ping())
    except Exception:  # noqa: BLE001  whatever it is, Docker does not answer
        return False


def _container(image: str, inside: int, port: int) -> DockerContainer:
    """Not yet started; its port is bound to loopback, which `with_bind_ports` cannot say."""
    container = DockerContainer(image)
    container.ports = cast("Any", {f"{inside}/tcp": ("127.0.0.1", port)})
    return container


@contextmanager
def _running(container: DockerContainer, ready: Callable[[], bool], what: str) -> Iterator[None]:
    try:
        container.start()
    except Exception as error:  # noqa: BLE001  docker, requests, testcontainers: each its own
        raise Unavailable(f"{what}: {error}") from None
    try:
        _wait(ready, what)
        yield
    finally:
        container.stop()


def _wait(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if time.monotonic() > end:
            raise Unavailable(f"{what} did not answer within {START_TIMEOUT_S:.0f} s")
        time.sleep(0.1)


def _pings(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
