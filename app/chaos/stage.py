"""What a campaign runs on: real brokers, a real Redis, and each worker's own way to them.

Every broker has a listener for each worker, which advertises a proxy's port, so that one worker's
network can be broken alone; producer, reader and checker go directly. Ports lie below
those that the system gives to outgoing connections: else a client that tries to reach a killed
server could be given the server's port, and meet itself.
"""

import random
import shutil
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.chaos.proxy import Proxy
from app.chaos.schedule import SESSION_MS, Tier
from app.config import Settings, load_settings
from app.demo.kafka_jvm import JvmKafka, new_cluster_id
from app.demo.process import sigterm_unwinds
from app.demo.redis_local import RedisServer, choose
from app.errors import ConfigError
from app.prepare import apply

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 30_000)
HEAP = "-Xmx384m"
FLUSH_MS = 1000
REDIS_TIMEOUT_S = 5.0
KEPT = ("model", "providers")


@dataclass(frozen=True, slots=True)
class Way:
    """One worker's own way to the servers."""

    brokers: tuple[Proxy, ...]
    redis: Proxy

    def proxies(self, to: str) -> tuple[Proxy, ...]:
        """Those to `kafka` or to `redis`."""
        return self.brokers if to == "kafka" else (self.redis,)

    def heal(self) -> None:
        """Let everything through again, also what is held."""
        for proxy in (*self.brokers, self.redis):
            proxy.heal()
            proxy.release(0)


@dataclass(frozen=True, slots=True)
class Stage:
    """Running servers, and a way to them for each worker and for one that joins for a while."""

    brokers: Sequence[JvmKafka]
    redis: RedisServer
    ways: Sequence[Way]
    settings: Settings
    """For those that no fault touches."""

    def settings_of(self, number: int) -> Settings:
        """For a worker, by its own way."""
        way = self.ways[number]
        url = self.settings.redis_url.get_secret_value()
        own = {
            "worker_id": f"w{number}",
            "bootstrap_servers": _addresses([proxy.port for proxy in way.brokers]),
            "redis_url": SecretStr(url.replace(f":{self.redis.port}/", f":{way.redis.port}/")),
        }
        return self.settings.model_copy(update=own)

    def flush_redis(self) -> None:
        """Let Redis forget everything, and answer as if nothing had happened."""
        password = self.settings.redis_url.get_secret_value().split(":")[2].split("@")[0]
        at = (LOOPBACK, self.redis.port)
        with socket.create_connection(at, REDIS_TIMEOUT_S) as connection:
            connection.sendall(f"AUTH {password}\r\nFLUSHALL\r\n".encode())
            said = b""
            while said.count(b"+OK") < 2:
                more = connection.recv(1024)
                if not more:
                    raise ConfigError(f"Redis refused to forget: {said!r}")
                said += more

    def keep_redis(self) -> None:
        """Copy what Redis has on disk now; `put_back` gives it that again."""
        old = self._kept()
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(self.redis.data, old)

    def put_back(self, *, empty: bool) -> None:
        """Replace what the stopped Redis has on disk by what was kept, or by nothing."""
        shutil.rmtree(self.redis.data)
        if empty:
            self.redis.data.mkdir()
        else:
            shutil.copytree(self._kept(), self.redis.data)

    def _kept(self) -> Path:
        return self.redis.data.with_name("kept")


@contextmanager
def staged(tier: Tier, transport: str, directory: Path) -> Iterator[Stage]:
    """Start servers with topics and ways; all of them end with it."""
    ways_count = tier.workers + 1
    ports = quiet_ports(tier.brokers * (2 + ways_count) + 1)
    redis_port, rest = ports[0], ports[1:]
    nodes = [rest[i :: tier.brokers] for i in range(tier.brokers)]  # direct, controller, ways
    with ExitStack() as stack:
        stack.enter_context(sigterm_unwinds())
        ways = []
        for number in range(ways_count):
            theirs = [node[2 + number] for node in nodes]
            proxies = [_proxy(stack, port) for port in theirs]
            ways.append(Way(tuple(proxies), _proxy(stack, redis_port)))
        (directory / "redis").mkdir()
        redis = RedisServer(choose(), directory / "redis", port=redis_port, durable=True)
        if not redis.real:
            raise ConfigError("no real Redis here: install redis-server")
        stack.callback(redis.stop)
        redis.start()
        brokers = _brokers(tier, nodes, ways, directory)
        for broker in brokers:
            stack.callback(broker.kill)
        at_once([broker.start for broker in brokers])
        settings = _settings(tier, transport, nodes, redis.url)
        apply(settings)
        yield Stage(brokers, redis, ways, settings)


def at_once(works: Sequence[Any]) -> None:
    """Do all of these at the same time; raises what one of them raises."""
    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(work) for work in works]:
            done.result()


def quiet_ports(count: int) -> list[int]:
    """Free loopback ports that no outgoing connection is given."""
    found: list[int] = []
    for port in random.Random().sample(PORTS, len(PORTS)):  # noqa: S311 -- no secret
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ConfigError(f"fewer than {count} free ports from {PORTS.start} to {PORTS.stop}")


def _proxy(stack: ExitStack, port: int) -> Proxy:
    proxy = Proxy((LOOPBACK, port))
    stack.callback(proxy.close)
    return proxy


def _brokers(
    tier: Tier, nodes: Sequence[Sequence[int]], ways: Sequence[Way], directory: Path
) -> list[JvmKafka]:
    copies, enough = str(tier.brokers), "2" if tier.brokers > 2 else "1"
    shared = {
        "controller.quorum.voters": ",".join(
            f"{i}@{LOOPBACK}:{node[1]}" for i, node in enumerate(nodes, 1)
        ),
        "default.replication.factor": copies,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "min.insync.replicas": enough,
        "transaction.state.log.min.isr": enough,
    }
    if tier.brokers > 1:  # the partitions of one that is killed are led by another sooner
        shared["broker.session.timeout.ms"] = "3000"
    cluster, brokers = new_cluster_id(), []
    for i, (direct, controller, *theirs) in enumerate(nodes):
        place = directory / f"broker-{i}"
        place.mkdir()
        proxied = [(port, way.brokers[i].port) for port, way in zip(theirs, ways, strict=True)]
        brokers.append(
            JvmKafka(
                place,
                tier.partitions,
                shared | {"node.id": str(i + 1)},
                proxied,
                ports=(direct, controller),
                cluster_id=cluster,
                heap=HEAP,
            )
        )
    return brokers


def _settings(
    tier: Tier, transport: str, nodes: Sequence[Sequence[int]], redis_url: str
) -> Settings:
    """The defaults on these servers; of the environment only KEPT enters."""
    defaults: dict[str, Any] = {
        name: field.default for name, field in Settings.model_fields.items() if name not in KEPT
    }
    own = {
        "bootstrap_servers": _addresses([node[0] for node in nodes]),
        "redis_url": SecretStr(redis_url),
        "transport": transport,
        "partitions": tier.partitions,
        "replication": tier.brokers,
        "http_port": 0,
        "log_format": "json",
        "state_flush_ms": FLUSH_MS,
        "consumer_options": {"session.timeout.ms": str(SESSION_MS)},
    }
    return load_settings(**(defaults | own))


def _addresses(ports: Sequence[int]) -> str:
    return ",".join(f"{LOOPBACK}:{port}" for port in ports)
