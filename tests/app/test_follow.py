"""Following topics: what a reader outside the group sees, whoever framed it."""

import io
import json
import time
from collections.abc import Iterator

import fastavro
import pytest

import schemas
from app.adapters.admin import fill
from app.adapters.follow import Decoder, Fields, Follower, Seen, sample
from app.adapters.mock_cluster import MockCluster
from app.config import Settings, load_settings
from app.errors import ConfigError

LIST_OFFSETS, NOT_LEADER = 2, 6
LATENCY = {
    "event_time": 1_700_000_000_000_001,
    "append_time": 2,
    "append_time_type": "LOG_APPEND_TIME",
    "polled": 3,
    "decoded": 4,
    "enriched": 5,
    "scored": 6,
    "emitted": 7,
}
SCORE: Fields = {
    "transaction_id": "t",
    "customer_id": "c",
    "source_partition": 1,
    "source_offset": 2,
    "score": 0.5,
    "decision": "REVIEW",
    "model_id": "m",
    "feature_contract_id": "f",
    "degraded": False,
    "provisional": False,
    "provider": "p",
    "vector_hash": bytes(8),
    "latency": LATENCY,
    "features": None,
    "shed": 0,
}


def encoded(header: bytes, score: Fields = SCORE) -> bytes:
    """Return a score behind a framing."""
    out = io.BytesIO(header)
    out.seek(len(header))
    fastavro.schemaless_writer(out, schemas.load("risk_score").parsed, score)
    return out.getvalue()


def drained(follower: Follower, count: int) -> list[Seen]:
    """Return the next `count` records (fewer if they do not come), and any that come too many."""
    seen: list[Seen] = []
    end_s = time.monotonic() + 10
    while len(seen) < count and time.monotonic() < end_s:
        seen += follower.poll(0.1)
    return seen + follower.poll(0.2)


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Point at a mock cluster with a topic of two partitions."""
    cluster = MockCluster({"scores": 2})
    yield load_settings(bootstrap_servers=cluster.bootstrap)
    cluster.stop()


def test_decodes_single_object_encoding() -> None:
    """A value framed by our fingerprint gives its fields, times as microseconds."""
    value = encoded(schemas.load("risk_score").single_object_header)
    assert Decoder("risk_score")(value) == SCORE


def test_decodes_a_registrys_framing_and_asks_once() -> None:
    """A value framed by an id is read by the registry's schema, which is asked for once."""
    asked = []

    def by_id(schema_id: int) -> str | None:
        asked.append(schema_id)
        return schemas.load("risk_score").text if schema_id == 7 else None

    decode = Decoder("risk_score", by_id)
    assert decode(encoded(b"\x00" + (7).to_bytes(4, "big"))) == SCORE
    assert decode(encoded(b"\x00" + (7).to_bytes(4, "big"))) == SCORE
    assert decode(encoded(b"\x00" + (8).to_bytes(4, "big"))) is None
    assert asked == [7, 8]


def test_decodes_a_score_that_was_written_before_its_last_fields() -> None:
    """A registry's older schema, without the fields, gives their defaults; a vector is kept."""
    older = json.loads(schemas.load("risk_score").text)
    assert [older["fields"].pop()["name"] for _ in range(2)] == ["shed", "features"]
    decode = Decoder("risk_score", lambda _id: json.dumps(older))
    framed = encoded(b"\x00" + (7).to_bytes(4, "big"))
    assert framed.endswith(b"\x00\x00")  # null, and 0
    assert decode(framed[:-2]) == SCORE
    carrying = {**SCORE, "features": [0.5, -1.0]}
    value = encoded(schemas.load("risk_score").single_object_header, carrying)
    assert Decoder("risk_score")(value) == carrying


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\x00", b"{}", schemas.load("risk_alert").single_object_header + b"\x00",
     schemas.load("risk_score").single_object_header + b"\xff"],
)  # fmt: skip
def test_foreign_values_are_none(value: bytes | None) -> None:
    """What is no score is None, never an error."""
    assert Decoder("risk_score")(value) is None


@pytest.mark.parametrize("from_beginning", [False, True])
def test_a_topic_whose_leader_is_not_known_yet_is_followed(*, from_beginning: bool) -> None:
    """As a topic is that was made a moment ago: asked again, and nothing is missed."""
    cluster = MockCluster({"scores": 2})
    settings = load_settings(bootstrap_servers=cluster.bootstrap)
    cluster.refuse(LIST_OFFSETS, *[NOT_LEADER] * 3)
    with Follower(settings, ["scores"], from_beginning=from_beginning) as follower:
        fill(cluster.bootstrap, "scores", [(b"k%d" % i, b"new") for i in range(5)])
        assert len(drained(follower, 5)) == 5
    cluster.stop()


def test_follows_from_now_or_from_the_beginning(settings: Settings) -> None:
    """From the end, only later records are seen; from the beginning, all."""
    fill(settings.bootstrap_servers, "scores", [(b"k%d" % i, b"old") for i in range(10)])
    with (
        Follower(settings, ["scores"]) as late,
        Follower(settings, ["scores"], from_beginning=True) as early,
    ):
        fill(settings.bootstrap_servers, "scores", [(b"k%d" % i, b"new") for i in range(5)])
        seen = [record.value for record in drained(late, 5)]
        every = [record.value for record in drained(early, 15)]
    assert seen == [b"new"] * 5
    assert sorted(value or b"" for value in every) == [b"new"] * 5 + [b"old"] * 10


def test_samples_the_last_records(settings: Settings) -> None:
    """A sample holds records of the topic's end, and nothing where there is nothing."""
    assert sample(settings, "scores", 5) == []
    fill(settings.bootstrap_servers, "scores", [(b"k%d" % i, b"%d" % i) for i in range(50)])
    taken = sample(settings, "scores", 5)
    assert len(taken) >= 5
    assert all(int(record.value or b"0") >= 30 for record in taken)


def test_a_missing_topic_says_what_to_do(settings: Settings) -> None:
    """A topic that is not there is a ConfigError that names the command."""
    with pytest.raises(ConfigError, match="riskwire topics apply"):
        Follower(settings, ["nothing-here"])
