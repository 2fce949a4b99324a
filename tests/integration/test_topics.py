"""Topics on a real Kafka: made as wanted, never silently repartitioned; who lags is told."""

import time
import uuid

import pytest
from confluent_kafka import Consumer, TopicPartition

from app import doctor
from app.adapters import topics
from app.adapters.admin import fill
from app.adapters.traffic import send
from app.config import Settings, load_settings
from app.demo.cluster import Kafka
from app.errors import ConfigError


@pytest.fixture
def settings(kafka: Kafka) -> Settings:
    """Point at the real Kafka, with topics of this test's own."""
    prefix = f"topics-{uuid.uuid4().hex[:8]}."
    return load_settings(bootstrap_servers=kafka.bootstrap, topic_prefix=prefix, partitions=3)


def test_apply_makes_topics_and_may_be_repeated(settings: Settings) -> None:
    """All are made as wanted; the second time nothing is left to do; the doctor agrees."""
    made = topics.apply_topics(settings)
    assert [change.action for change in made] == ["created"] * len(topics.wanted_topics(settings))
    found = topics.describe_topics(settings)
    for wanted in topics.wanted_topics(settings):
        assert found[wanted.name].partitions == 3
        assert wanted.config.items() <= found[wanted.name].config.items()
    again = topics.apply_topics(settings)
    assert [change.action for change in again] == ["unchanged"] * len(made)
    assert {check.state for check in doctor.judge_topics(settings, found)} == {"ok"}


def test_apply_alters_settings_and_reports_partitions(settings: Settings) -> None:
    """A setting that differs is set; a partition count that differs is told and left alone."""
    topics.apply_topics(settings)
    other = settings.model_copy(update={"partitions": 5, "message_bytes_max": 5_000_000})
    changes = topics.apply_topics(other)
    differing = [change for change in changes if change.action == "differs"]
    assert len(differing) == len(topics.wanted_topics(settings))
    [altered] = [change for change in changes if change.action == "altered"]
    assert altered.detail == "max.message.bytes: 4194304 -> 5000000"
    found = topics.describe_topics(settings)
    assert {topic.partitions for topic in found.values()} == {3}
    end_s = time.monotonic() + 10  # brokers hear of it from the controller, a little later
    while time.monotonic() < end_s:
        if not any(change.action == "altered" for change in topics.apply_topics(other)):
            break
        time.sleep(0.1)
    letters = topics.describe_topics(settings)[settings.topic("dead_letters")]
    assert letters.config[topics.MESSAGE_BYTES] == "5000000"


def test_arriving_records_get_the_brokers_time(settings: Settings) -> None:
    """Transactions and labels are stamped on arrival, outputs keep their producer's time."""
    topics.apply_topics(settings)
    kinds = {
        role: topics.describe_topics(settings)[settings.topic(role)].config[topics.TIMESTAMP_TYPE]
        for role in ("transactions", "labels", "scores")
    }
    assert kinds == {
        "transactions": "LogAppendTime",
        "labels": "LogAppendTime",
        "scores": "CreateTime",
    }


def test_lag_counts_what_the_group_has_not_committed(settings: Settings) -> None:
    """Before any commit all records lag; after a commit, those behind it."""
    topics.apply_topics(settings)
    topic = settings.topic("transactions")
    group = settings.model_copy(update={"group_id": f"lag-{uuid.uuid4().hex[:8]}"})
    fill(settings.bootstrap_servers, topic, [(b"%d" % i, b"x") for i in range(60)])
    marks = topics.watermarks(group, topic)
    assert sum(high - low for low, high in marks.values()) == 60
    assert topics.lag(group, topic) == {p: high for p, (_, high) in marks.items()}
    consumer = Consumer({**group.client_options(), "group.id": group.group_id})
    consumer.commit(offsets=[TopicPartition(topic, 0, marks[0][1] - 1)], asynchronous=False)
    consumer.close()
    assert topics.lag(group, topic)[0] == 1


def test_a_topic_that_is_missing_says_what_to_do(settings: Settings) -> None:
    """Asking for offsets of a missing topic is a ConfigError that names the command."""
    with pytest.raises(ConfigError, match="riskwire topics apply"):
        topics.watermarks(settings, settings.topic("transactions"))
    assert topics.describe_topics(settings) == {}


def test_nothing_is_sent_to_a_missing_topic(settings: Settings) -> None:
    """A sender finds out before the first record is due, and says what to do."""
    with pytest.raises(ConfigError, match="riskwire topics apply"):
        send(settings, iter(()))


def test_a_refused_topic_is_a_wrong_setting(settings: Settings) -> None:
    """A replication that the cluster cannot give is the operator's to change, not to retry."""
    with pytest.raises(ConfigError, match=r"(?i)replication"):
        topics.apply_topics(settings.model_copy(update={"replication": 7}))
