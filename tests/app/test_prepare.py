"""Preparing a cluster: schemas are registered once, by the operator's command and nobody else."""

import pytest

import schemas
from app import doctor, prepare
from app.adapters.topics import Change
from app.config import Settings, load_settings
from app.errors import ConfigError

SUBJECTS = {"transactions-value", "labels-value", "scores-value", "alerts-value"}


class Registry:
    """A registry in memory."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def __call__(self, _settings: Settings) -> "Registry":
        """Take the place of the adapter's class."""
        return self

    def register(self, subject: str, text: str, *, allowed: bool = False) -> int:
        """Answer as the adapter does."""
        if subject not in self.known and not allowed:
            raise ConfigError(f"no such schema under {subject}")
        self.known[subject] = text
        return list(self.known).index(subject) + 1


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Put a registry and a Kafka that is as wanted in the adapters' places."""
    fake = Registry()
    monkeypatch.setattr(prepare, "SchemaRegistry", fake)
    monkeypatch.setattr(doctor, "SchemaRegistry", fake)
    done = [Change("transactions", "unchanged", "")]
    monkeypatch.setattr(prepare, "apply_topics", lambda _settings: list(done))
    return fake


def test_registers_each_values_schema(registry: Registry) -> None:
    """With a registry, every kind of value gets its subject; without one, nothing is asked."""
    assert len(prepare.apply(load_settings())) == 1
    assert registry.known == {}
    settings = load_settings(schema_registry_url="http://registry.example")
    changes = prepare.apply(settings)
    assert {c.topic for c in changes if c.action == "registered"} == SUBJECTS
    assert registry.known["alerts-value"] == schemas.load("risk_alert").text
    assert prepare.apply(settings) == changes


def test_the_doctor_wants_them_registered(registry: Registry) -> None:
    """Before `topics apply` the doctor fails; afterwards it names the ids."""
    settings = load_settings(schema_registry_url="http://registry.example")
    with pytest.raises(ConfigError, match="transactions-value"):
        list(doctor.registry(settings))
    prepare.apply(settings)
    [check] = doctor.registry(settings)
    assert check.state == "ok"
    assert all(subject in check.detail for subject in registry.known)
