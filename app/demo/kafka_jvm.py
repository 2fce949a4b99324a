"""A real Apache Kafka on loopback without Docker: jars from Maven Central, one KRaft node, Java 17.

The jars are fetched once into a cache (`RISKWIRE_KAFKA_CACHE`, else the user's cache directory),
safe against two processes that do so at once. Raises ConfigError that names what the machine lacks,
and Unavailable where the broker does not come up.
"""

import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.adapters.admin import answers
from app.demo.maven import once
from app.demo.process import Server, free_ports, listens
from app.errors import ConfigError, Unavailable

VERSION = "4.3.1"
JAVA_MAJOR_MIN = 17
START_TIMEOUT_S = 180.0
HEAP = "-Xmx512m"
NOTED_S = 1.0
"""A controller writes down what it found within 25 ms of saying it; not if it is stopped before."""
POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>riskwire</groupId><artifactId>kafka-node</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


def node_properties(
    listeners: tuple[str, str], advertised: str, partitions: int, data: str
) -> dict[str, str]:
    """Broker settings of a single KRaft node that starts fast and keeps nothing for long.

    `listeners` are host:port of broker and controller, `advertised` is what clients are told.
    """
    broker, controller = listeners
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller.rpartition(':')[2]}",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "num.partitions": str(partitions),
        # A topic that nobody made is a mistake; and its partition count would be an accident.
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.heartbeat.interval.ms": "500",
        "log.retention.ms": "-1",
    }


def also_proxied(given: dict[str, str], proxied: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Settings for clients that come through proxies, beside those that come directly.

    Each of `proxied` is a port that the broker listens on for one proxy, and that proxy's own,
    which is what its clients are told.
    """
    more: dict[str, list[str]] = {"listeners": [], "advertised.listeners": []}
    more["listener.security.protocol.map"] = []
    for i, (port, proxy) in enumerate(proxied):
        more["listeners"].append(f"PROXIED{i}://127.0.0.1:{port}")
        more["advertised.listeners"].append(f"PROXIED{i}://127.0.0.1:{proxy}")
        more["listener.security.protocol.map"].append(f"PROXIED{i}:PLAINTEXT")
    # Brokers talk to each other as before: by the first listener.
    return {key: ",".join([given[key], *each]) for key, each in more.items()}


class JvmKafka(Server):
    """One Apache Kafka node; stop, kill and start again keep its data and its port."""

    def __init__(
        self,
        directory: Path,
        partitions: int,
        properties: Mapping[str, str],
        proxied: Sequence[tuple[int, int]] = (),
        *,
        ports: tuple[int, int] | None = None,
        cluster_id: str | None = None,
        heap: str = HEAP,
    ) -> None:
        """Formats the storage under `directory`; raises ConfigError where Java or the jars lack.

        See `also_proxied` for `proxied`. A node of several is given its ports (clients' and
        controller's) and the id of their cluster.
        """
        java, classpath = java_program(), str(jars() / "*")
        port, controller = ports or free_ports(2)
        self.kind = f"Apache Kafka {VERSION} on this machine's Java"
        self.bootstrap = bootstrap = f"127.0.0.1:{port}"
        given = node_properties(
            (bootstrap, f"127.0.0.1:{controller}"), bootstrap, partitions, str(directory / "data")
        )
        given |= also_proxied(given, proxied)
        given |= properties
        log = directory / "kafka.log"
        settings = _written(directory / "server.properties", given)
        level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        # What lives shortly: the first compiler tier alone starts faster.
        short = [java, "-XX:TieredStopAtLevel=1", level]
        _format([*short, "-cp", classpath], cluster_id or new_cluster_id(), settings, log)
        node = ["-cp", classpath, "kafka.Kafka"]
        super().__init__(
            self.kind,
            [java, heap, level, *node, str(settings)],
            log,
            lambda: listens(port) and answers(bootstrap),
            start_timeout_s=START_TIMEOUT_S,
        )
        self._is_single = "," not in given["controller.quorum.voters"]
        self._was_killed = False
        alone = given | {
            "process.roles": "controller",
            "listeners": f"CONTROLLER://127.0.0.1:{controller}",
            "broker.session.timeout.ms": "1000",
        }
        del alone["advertised.listeners"]
        settings = _written(directory / "controller.properties", alone)
        said = "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.controller=info"
        self._controller_log = directory / "controller.log"
        self._controller = Server(
            "Apache Kafka's controller",
            [*short, said, *node, str(settings)],
            self._controller_log,
            lambda: b"Fencing broker" in self._controller_log.read_bytes(),
            start_timeout_s=START_TIMEOUT_S,
        )

    def kill(self) -> None:
        """See `Server.kill`."""
        super().kill()
        self._was_killed = True

    def start(self) -> None:
        """See `Server.start`.

        Before a single node starts that was killed, its controller declares the broker dead, as
        controllers elsewhere do meanwhile. Else the broker leads its partitions again for a moment,
        and then nobody does; Kafka 4.3.1 takes them for deleted if the markers of a committed
        transaction are just then to be written, and it stays open for ever (KAFKA-20734).
        """
        if self._was_killed and self._is_single:
            self._controller_log.unlink(missing_ok=True)
            self._controller.start()
            time.sleep(NOTED_S)
            self._controller.stop()
        self._was_killed = False
        super().start()


def _written(path: Path, properties: Mapping[str, str]) -> Path:
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), "utf-8")
    return path


def new_cluster_id() -> str:
    """An id that no cluster has yet."""
    return uuid.uuid4().hex[:22]


def _format(java: list[str], cluster: str, settings: Path, log: Path) -> None:
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)]
    with log.open("ab") as out:
        done = subprocess.run(command, stdout=out, stderr=out, check=False)
    if done.returncode:
        raise Unavailable(f"Kafka's storage could not be formatted:\n{log.read_text('utf-8')}")


def java_program() -> str:
    """Path of a Java that runs Kafka; raises ConfigError otherwise."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise ConfigError(f"Java {JAVA_MAJOR_MIN} is missing (Debian: openjdk-17-jre-headless)")
    said = subprocess.run([java, "-version"], capture_output=True, check=False, text=True).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < JAVA_MAJOR_MIN:
        found = said.strip().splitlines()[0] if said.strip() else "unknown"
        raise ConfigError(f"Kafka {VERSION} needs Java {JAVA_MAJOR_MIN} or newer, found: {found}")
    return java


def cache() -> Path:
    """Where the jars are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    given = os.environ.get("RISKWIRE_KAFKA_CACHE")
    return Path(given) if given else Path(base) / "riskwire" / f"kafka-{VERSION}"


def jars() -> Path:
    """Directory with Kafka's jars, fetched at first use; raises ConfigError."""
    place = cache()
    goals = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={place}"]
    return once(place, "Kafka's jars", _lay, goals)


def _lay(project: Path) -> None:
    (project / "pom.xml").write_text(POM, "utf-8")
