"""The doctor's judgement: what is wrong is named with what to do, and one fault hides no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import doctor
from app.adapters import facts, onnx
from app.adapters.facts import RedisFacts
from app.adapters.follow import Seen
from app.adapters.topics import MESSAGE_BYTES, TIMESTAMP_TYPE, Topic, wanted_topics
from app.config import Settings, load_settings
from app.doctor import Check
from app.errors import ModelError, StoreUnavailable
from app.meta import Meta
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


def test_another_count_than_the_settings_fails() -> None:
    """The worker keeps its state by RISKWIRE_PARTITIONS."""
    settings = load_settings(partitions=6)
    found = {c.name: c for c in doctor.judge_topics(settings, topics(load_settings()))}
    assert found["partitions"].state == "fail"
    assert "RISKWIRE_PARTITIONS=4" in found["partitions"].advice
    assert "topics" not in found


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


def redis_facts(
    policy: str = "noeviction", metas: dict[int, Meta] | None = None, *contracts: str
) -> RedisFacts:
    """Return what a Redis with these partitions' state says."""
    return RedisFacts("8.0", policy, 5, metas or {}, frozenset(contracts))


WHOLE = {p: Meta(4, 1, "w1", released=p > 1) for p in range(4)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (redis_facts("noeviction", WHOLE), {"Redis": "ok", "state": "ok"}),
        (redis_facts("", WHOLE), {"Redis": "ok", "state": "ok"}),
        (redis_facts("allkeys-lru", WHOLE), {"Redis": "ok", "Redis eviction": "warn",
                                             "state": "ok"}),
        (redis_facts(), {"Redis": "ok", "state": "warn"}),
        (redis_facts("", {0: Meta(3)}), {"Redis": "ok", "state": "fail"}),
    ],
)  # fmt: skip
def test_redis_must_keep_the_state(
    found: RedisFacts, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that drops state and a store without it are warnings; another count is a fault."""
    monkeypatch.setattr(facts, "redis_facts", lambda *_: found)
    checks = list(doctor.redis(load_settings()))
    assert {check.name: check.state for check in checks} == expected
    assert all(check.advice for check in checks if check.state != "ok")


def test_the_state_is_the_models() -> None:
    """Owners are named, partitions without state too, and whose state there is instead."""
    [check] = doctor.judge_state(4, "abc", redis_facts("", WHOLE))
    assert check.detail == "feature contract abc in 4 partitions; nobody owns 2-3; w1 owns 0-1"
    some = {1: Meta(6), 4: Meta(6)}
    [check] = doctor.judge_state(6, "abc", redis_facts("", some, "abc", "0ld"))
    assert check.state == "warn"
    assert "none of feature contract abc in partitions 0, 2-3, 5:" in check.detail
    assert check.detail.endswith("Redis holds that of 0ld")
    assert "features backfill" in check.advice


def test_a_broken_model_hides_nothing_of_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Redis is asked all the same; the model's own check says what is wrong with it."""
    monkeypatch.setattr(facts, "redis_facts", lambda *_: redis_facts())
    checks = list(doctor.redis(load_settings(model=tmp_path)))
    assert [check.name for check in checks] == ["Redis"]


@pytest.mark.parametrize(("days", "warned"), [(187, True), (188, False), (-1, False)])
def test_logs_are_kept_for_a_rebuild(days: int, warned: bool) -> None:  # noqa: FBT001
    """Both logs, as long as the longest window reaches; -1 is for ever."""
    kept = {**HEALTHY, "retention.ms": str(days * 86_400_000) if days > 0 else "-1"}
    found = judged(transactions=Topic("transactions", 4, 1, kept), labels=Topic("labels", 4, 1,
                                                                                kept))  # fmt: skip
    names = {"retention of transactions", "retention of labels"}
    assert names & found.keys() == (names if warned else set())


def test_logs_are_cut_by_nothing_else() -> None:
    """Not by size, nor by key; watermarks are kept as long as the logs."""
    sized = judged(transactions=Topic("transactions", 4, 1, {**HEALTHY, "retention.bytes": "1"}))
    assert sized["retention of transactions"].state == "warn"
    for role, policy in (("labels", "compact"), ("watermarks", "delete")):
        kept = {**HEALTHY, "cleanup.policy": policy, "retention.ms": "604800000"}
        found = judged(**{role: Topic(role, 4, 1, kept)})[f"clean-up of {role}"]
        assert found.state == "fail"
    both = {**HEALTHY, "cleanup.policy": "compact", "retention.ms": "604800000"}
    assert "clean-up of watermarks" not in judged(watermarks=Topic("watermarks", 4, 1, both))


@pytest.mark.parametrize("aof", [True, False, None])
@pytest.mark.parametrize("kept", [True, False])
def test_a_redis_that_forgets_wants_snapshots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, aof: bool | None, kept: bool
) -> None:
    """It is a warning where neither keeps the state; nothing where the server does not say."""
    monkeypatch.setattr(facts, "redis_facts", lambda *_: redis_facts()._replace(aof=aof))
    checks = doctor.redis(load_settings(snapshot_dir=tmp_path if kept else None))
    warned = "Redis persistence" in {check.name for check in checks}
    assert warned == (aof is False and not kept)


def test_one_failure_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a check raises becomes its failure, and the others are asked all the same."""

    def away(_settings: Settings, _contract: str) -> RedisFacts:
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
