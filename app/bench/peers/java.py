"""The JVM's peers: Kafka Streams and a plain poll loop, each with ONNX Runtime for Java.

Their sources and pinned versions lie in `java/`. Maven builds them once for each state of these
sources into the user's cache. Raises ConfigError that names what the machine lacks.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from app.demo.kafka_jvm import java_program
from app.demo.maven import once
from app.errors import ConfigError

SOURCES = Path(__file__).parent / "java"
MAIN = "riskwire.peers.Peer"
JVM_FLAGS = ("-XX:+UseParallelGC", "-Xms512m", "-Xmx512m")
"""Hardly anything lives long, so the collector with the cheapest barriers wins; no resizing."""
VARIANTS = (
    "poll",
    "poll-owned",
    "streams-event",
    "streams-batch",
    "streams-eos",
    "streams-eos-safe",
)


def command(variant: str, arguments: Sequence[str]) -> list[str]:
    """The command line of a peer, built at first use; raises ConfigError."""
    if variant not in VARIANTS:
        raise ConfigError(f"no such peer on the JVM: {variant}; there are {list(VARIANTS)}")
    java, classpath = java_program(), str(jars() / "*")
    return [java, *JVM_FLAGS, "-cp", classpath, MAIN, "--variant", variant, *arguments]


def jars() -> Path:
    """Directory with the peers and all that they need; raises ConfigError."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.java")):
        digest.update(path.read_bytes())
    digest.update((SOURCES / "pom.xml").read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = base / "riskwire" / "peers" / f"java-{digest.hexdigest()[:12]}"
    return once(place, "the JVM's peers", _lay, ["package", f"-Djars={place}"])


def _lay(project: Path) -> None:
    if not Path(java_program()).resolve().with_name("javac").exists():
        raise ConfigError("a JDK is missing beside Java (Debian: openjdk-17-jdk-headless)")
    shutil.copytree(SOURCES, project, dirs_exist_ok=True)
