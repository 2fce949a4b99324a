"""The topic `watermarks` on a real Kafka."""

import uuid

import pytest

from app.adapters.topics import apply_topics
from app.adapters.watermarks import KafkaWatermarks, declare
from app.config import Settings, load_settings
from app.demo.cluster import Kafka
from app.errors import BrokerUnavailable
from app.watermarks import Watermark
from features.state import LABELS, TRANSACTIONS


@pytest.fixture
def settings(kafka: Kafka) -> Settings:
    """Topics of this test's own, which are still to be made."""
    prefix = f"marks-{uuid.uuid4().hex[:8]}."
    return load_settings(bootstrap_servers=kafka.bootstrap, topic_prefix=prefix, partitions=3)


async def test_what_was_declared_is_read_from_any_offset_on(settings: Settings) -> None:
    """By partition, in order, to the end as it is then; other groups' are passed over."""
    apply_topics(settings)
    log = KafkaWatermarks(settings)
    assert await log.read({0: 0, 1: 0, 2: 0}) == {0: ([], 0), 1: ([], 0), 2: ([], 0)}
    first, second = Watermark(TRANSACTIONS, 5, 50), Watermark(LABELS, 3, 30)
    declare(settings, [(1, first), (2, second), (1, second)])
    declare(settings.model_copy(update={"group_id": "another"}), [(1, first)])
    assert await log.read({0: 0, 1: 0}) == {0: ([], 0), 1: ([first, second], 3)}
    assert await log.read({1: 1, 2: 1}) == {1: ([second], 3), 2: ([], 1)}
    declare(settings, [(2, first)])
    assert await log.read({2: 1}) == {2: ([first], 2)}


async def test_a_missing_topic_is_said_at_once(settings: Settings) -> None:
    """With what to do; once it is there it is read."""
    log = KafkaWatermarks(settings)
    with pytest.raises(BrokerUnavailable, match="riskwire topics apply"):
        await log.read({0: 0})
    apply_topics(settings)
    assert await log.read({2: 0}) == {2: ([], 0)}
