"""The JVM's peers from outside: versions, variants, what a machine without Java or Maven is told.

That they score right is for the tests of `riskwire bench peers`, which run them.
"""

from pathlib import Path

import pytest

from app.bench.peers import java
from app.demo.kafka_jvm import VERSION
from app.errors import ConfigError

PEER = java.SOURCES / "src/main/java/riskwire/peers/Peer.java"


def test_clients_are_of_the_brokers_version() -> None:
    """Both of Kafka's libraries are pinned to what the project's own broker is."""
    assert (java.SOURCES / "pom.xml").read_text("utf-8").count(f"<version>{VERSION}<") == 2


def test_every_variant_is_known_to_the_program() -> None:
    """What Python offers is what Java's switch names."""
    text = PEER.read_text("utf-8")
    assert [f'case "{name}"' in text for name in java.VARIANTS] == [True] * text.count("case ")


def test_an_unknown_variant_is_refused() -> None:
    """A misspelled peer builds and starts nothing."""
    with pytest.raises(ConfigError, match="no such peer"):
        java.command("polls", [])


def test_a_machine_without_java_or_maven_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors name what to install."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="Java 17 is missing"):
        java.command("poll", [])
    with pytest.raises(ConfigError, match="Maven is missing"):
        java.jars()
