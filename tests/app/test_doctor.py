"""The doctor's judgement: what is wrong is named with what to do, and one fault hides no other."""

from collections.abc import Iterator

import pytest

from app import doctor
from app.adapters import facts, onnx
from app.adapters.facts import RedisFacts
from app.adapters.follow import Seen
from app.adapters.topics import MESSAGE_BYTES, TIMESTAMP_TYPE, Topic, wanted_topics
from app.config import Settings, load_settings
from app.doctor import Check
from app.errors import ModelError, StoreUnavailable
from app.partitioner import partition_of

HEALTHY = {TIMESTAMP_TYPE: "LogAppendTime", MESSAGE_BYTES: "1048588"}


def topics(settings: Settings, **changes: Topic | None) -> dict[str, Topic]:
    """Return the topics as `topics apply` makes them, some changed or gone."""
    made = {t.name: Topic(t.name, t.partitions, 1, {**HEALTHY, **t.config}) for t in
            wanted_topics(settings)}  # fmt: skip
    changed = {**made, **{name.replace("_", "-"): topic for name, topic in changes.items()}}
    return {name: topic for name, topic in changed.items() if topic is not None}


def judged(**changes: Topic | None) -> dict[str, Check]:
    """Return the checks of such topics by name."""
    settings = load_settings()
    return {c.name: c for c in doctor.judge_topics(settings, topics(settings, **changes))}


def states(checks: dict[str, Check]) -> dict[str, str]:
    """Return the state of each check."""
    return {name: check.state for name, check in checks.items()}


def test_topics_as_applied_are_fine() -> None:
    """What `topics apply` makes passes."""
    assert states(judged()) == {"topics": "ok", "dead letters": "ok"}


def test_a_missing_topic_fails() -> None:
    """Each missing topic is named, and the command that makes it."""
    found = judged(labels=None, alerts=None)["topics"]
    assert found.state == "fail"
    assert "labels, alerts" in found.detail
    assert "topics apply" in found.advice


def test_partition_counts_that_differ_fail() -> None:
    """Outputs go to their transaction's partition, labels lie beside their transactions."""
    for name in ("labels", "scores", "dead_letters"):
        found = judged(**{name: Topic(name.replace("_", "-"), 3, 1, HEALTHY)})
        assert found["partitions"].state == "fail"
        assert f"{name.replace('_', '-')} 3" in found["partitions"].detail


def test_producer_time_is_a_warning() -> None:
    """Without the broker's time the latency record says less, but scores are right."""
    config = {**HEALTHY, TIMESTAMP_TYPE: "CreateTime"}
    assert judged(transactions=Topic("transactions", 4, 1, config))["timestamps"].state == "warn"


@pytest.mark.parametrize("room", ["1048588", "4194304"])
def test_a_dead_letter_must_fit(room: str) -> None:
    """A dead letter holds the largest record that can come in, and its headers."""
    config = {**HEALTHY, MESSAGE_BYTES: room}
    found = judged(dead_letters=Topic("dead-letters", 4, 1, config))["dead letters"]
    assert found.state == ("ok" if room == "4194304" else "fail")
    if found.state == "fail":
        assert "RISKWIRE_MESSAGE_BYTES_MAX" in found.advice


def records(partitioned_by: int) -> list[Seen]:
    """Return records on the partitions of murmur2 for that many partitions."""
    keys = [b"customer-%d" % i for i in range(50)]
    return [
        Seen("transactions", partition_of(k, partitioned_by), i, 0, k, b"", {})
        for i, k in enumerate(keys)
    ]


def test_the_partitioner_is_told_from_keys() -> None:
    """Keys where murmur2 puts them pass; keys elsewhere are a warning that says what to set."""
    assert doctor.judge_partitions(records(4), 4).state == "ok"
    wrong = doctor.judge_partitions(records(3), 4)
    assert wrong.state == "warn"
    assert "murmur2_random" in wrong.advice
    assert doctor.judge_partitions([], 4).state == "ok"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (RedisFacts("8.0", "noeviction", 5, has_profile=True), {"Redis": "ok"}),
        (RedisFacts("8.0", "", 5, has_profile=True), {"Redis": "ok"}),
        (
            RedisFacts("8.0", "allkeys-lru", 5, has_profile=True),
            {"Redis": "ok", "Redis eviction": "warn"},
        ),
        (
            RedisFacts("8.0", "noeviction", 0, has_profile=False),
            {"Redis": "ok", "profiles": "warn"},
        ),
    ],
)
def test_redis_must_keep_profiles(
    found: RedisFacts, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that drops profiles and a store without any are warnings."""
    monkeypatch.setattr(facts, "redis_facts", lambda _settings: found)
    checks = list(doctor.redis(load_settings()))
    assert {check.name: check.state for check in checks} == expected
    assert all(check.advice for check in checks if check.state == "warn")


def test_one_failure_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a check raises becomes its failure, and the others are asked all the same."""

    def away(_settings: Settings) -> RedisFacts:
        raise StoreUnavailable("Redis is away")

    def broken(_settings: Settings) -> Iterator[Check]:
        raise ZeroDivisionError
        yield

    def no_wheel(*_: object) -> str:
        raise ModelError("both wheels are installed")

    monkeypatch.setattr(facts, "redis_facts", away)
    monkeypatch.setattr(onnx, "installed_wheel", no_wheel)
    monkeypatch.setattr(doctor, "kafka", broken)
    checks = {check.name: check for check in doctor.examine(load_settings())}
    assert checks["Redis"].detail == "Redis is away"
    assert checks["Redis"].advice
    assert checks["Kafka"].detail == "ZeroDivisionError: "
    assert checks["native transport"].state == "ok"
    installed = [c for c in doctor.examine(load_settings()) if c.name == "installation"]
    assert [check.state for check in installed] == ["ok", "fail"]


def test_the_status_is_that_of_failures_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning passes, a failure does not; advice stands below its line."""
    warned = [Check("a", "ok", "fine"), Check("b", "warn", "hm", "do this")]
    monkeypatch.setattr(doctor, "examine", lambda _settings: warned)
    assert doctor.run(load_settings(), as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok    a: fine",
        "warn  b: hm",
        "      -> do this",
    ]
    failed = [*warned, Check("c", "fail", "no", "do that")]
    monkeypatch.setattr(doctor, "examine", lambda _settings: failed)
    assert doctor.run(load_settings(), as_json=True) == 1
