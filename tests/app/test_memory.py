"""The ports in memory behave as the real adapters do; the store's twin tests are in integration."""

from collections.abc import Sequence

import pytest

from app.adapters.memory import MemorySource, MemoryStore
from app.errors import BrokerUnavailable, StoreUnavailable
from tests.app.builders import record_batch

Position = tuple[str, int]


class Listener:
    """Notes what a source tells it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[Position]]] = []

    def assigned(self, partitions: Sequence[Position]) -> None:
        """See `RebalanceListener.assigned`."""
        self.events.append(("assigned", list(partitions)))

    def revoked(self, partitions: Sequence[Position], *, lost: bool) -> None:
        """See `RebalanceListener.revoked`."""
        self.events.append(("lost" if lost else "revoked", list(partitions)))


OWNED = [("transactions", 0), ("transactions", 1), ("labels", 0), ("labels", 1)]


def test_companions_come_and_go_with_their_partitions() -> None:
    """Assigned at the first poll, revoked together; commits and beginnings know them."""
    listener = Listener()
    source = MemorySource(listener, OWNED[:2], ["labels"])
    source.starts[OWNED[3]] = 5
    assert source.beginnings() == {}
    source.poll(10, 0, 0)
    assert source.assignment() == set(OWNED)
    assert source.beginnings() == {**dict.fromkeys(OWNED, 0), OWNED[3]: 5}
    source.commit({OWNED[2]: 3}, wait=True)
    assert source.committed(OWNED) == {OWNED[2]: 3}
    source.revoke()
    assert listener.events == [("assigned", OWNED), ("revoked", sorted(OWNED))]
    assert source.beginnings() == {}
    source.away = True
    with pytest.raises(BrokerUnavailable):
        source.beginnings()


def test_what_is_paused_waits_and_the_rest_flows_in_order() -> None:
    """A batch is passed only by batches of other partitions."""
    source = MemorySource(Listener(), OWNED[:2], ["labels"])
    first, second = record_batch([(0, 1, None, b"a")]), record_batch([(0, 2, None, b"b")])
    across = record_batch([(0, 3, None, b"c"), (1, 0, None, b"d")])
    behind = record_batch([(1, 1, None, b"e")])
    label = record_batch([(0, 0, None, b"l")], topic="labels")
    for batch in (first, second, across, behind, label):
        source.add(batch)
    source.pause(OWNED[:1])
    assert source.poll(10, 0, 0) == [label]
    assert source.poll(10, 0, 0) == []
    source.resume(OWNED[:1])
    assert [source.poll(10, 0, 0)[0] for _ in range(4)] == [first, second, across, behind]


async def test_a_store_that_is_away_answers_nothing() -> None:
    """Every call is StoreUnavailable, and what is stored stays."""
    store = MemoryStore({b"a": b"1"})
    store.away = True
    with pytest.raises(StoreUnavailable):
        await store.fetch([b"a"])
    with pytest.raises(StoreUnavailable):
        await store.flush(b"g", None, b"1", [(b"a", b"2")])
    with pytest.raises(StoreUnavailable):
        _ = [key async for key in store.scan(b"")]
    assert store.blobs == {b"a": b"1"}
