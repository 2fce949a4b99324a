"""The ledger: only what every output acknowledges, and only of what is owned, may be committed."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from app.ledger import Ledger, next_offsets
from app.records import RecordBatch
from tests.app.builders import begin, record_batch

AT0, AT1 = ("transactions", 0), ("transactions", 1)


def _batch(*at: tuple[int, int], generation: int) -> RecordBatch:
    return record_batch([(p, o, b"k", b"v") for p, o in at], generation=generation)


def _ledger() -> Ledger:
    ledger = Ledger()
    ledger.assigned([AT0, AT1])
    return ledger


def test_next_offsets_are_the_last_of_each_partition() -> None:
    """Offsets with holes count by the last record, whatever the interleaving."""
    batch = _batch((2, 7), (0, 1), (2, 9), (0, 4), generation=1)
    assert next_offsets(batch) == {0: 5, 2: 10}


def test_nothing_is_committable_before_it_is_done() -> None:
    """A begun batch keeps its offsets back."""
    ledger = _ledger()
    ledger.admit(_batch((0, 0), generation=ledger.generation))
    assert ledger.committable() == {}


def test_a_later_batch_waits_for_an_earlier_one() -> None:
    """Acknowledgements out of order commit nothing until the head is done."""
    ledger = _ledger()
    first, _ = begin(ledger, _batch((0, 0), generation=ledger.generation))
    second, _ = begin(ledger, _batch((0, 1), generation=ledger.generation))
    ledger.done([second])
    assert ledger.committable() == {}
    ledger.done([first])
    assert ledger.committable() == {AT0: 2}
    assert ledger.committable() == {}


def test_records_of_released_partitions_are_not_admitted() -> None:
    """A queued batch loses the rows of a partition that was given up meanwhile."""
    ledger = _ledger()
    batch = _batch((0, 0), (1, 5), (0, 1), generation=ledger.generation)
    ledger.released([AT0])
    _, admitted = begin(ledger, batch)
    assert admitted.partition.tolist() == [1]
    assert admitted.offset.tolist() == [5]


def test_records_polled_before_a_reassignment_are_stale() -> None:
    """A partition that left and came back is read anew; what was polled before does not count."""
    ledger = _ledger()
    old = _batch((0, 3), generation=ledger.generation)
    ledger.released([AT0])
    ledger.assigned([AT0])
    assert ledger.admit(old) is None
    assert ledger.admit(_batch((0, 3), generation=ledger.generation)) is not None


def test_a_partition_never_assigned_is_not_admitted() -> None:
    """Rows of unknown partitions or topics are not ours."""
    ledger = _ledger()
    assert ledger.admit(_batch((7, 0), generation=ledger.generation)) is None
    other = record_batch([(0, 0, None, None)], topic="other", generation=ledger.generation)
    assert ledger.admit(other) is None


def test_a_rewind_forgets_what_is_in_hand() -> None:
    """Tickets and batches of before a rewind neither commit nor are admitted."""
    ledger = _ledger()
    stale = _batch((0, 11), generation=ledger.generation)
    ticket, _ = begin(ledger, _batch((0, 10), generation=ledger.generation))
    ledger.rewound()
    ledger.done([ticket])
    assert ledger.committable() == {}
    assert ledger.admit(stale) is None
    assert ledger.wait_idle(None, 0)


def test_forgotten_partitions_commit_nothing() -> None:
    """After a revoke nothing of the partition is committed, finished later or not."""
    ledger = _ledger()
    ticket, _ = begin(ledger, _batch((0, 0), (1, 0), generation=ledger.generation))
    ledger.released([AT0])
    ledger.forget([AT0])
    ledger.done([ticket])
    assert ledger.committable() == {AT1: 1}


def test_wait_idle_looks_at_the_asked_partitions_only() -> None:
    """Work in hand of other partitions does not delay a revoke."""
    ledger = _ledger()
    ledger.admit(_batch((0, 0), generation=ledger.generation))
    assert ledger.wait_idle({AT1}, 0)
    assert not ledger.wait_idle({AT0}, 0)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.randoms())
def test_the_committed_offset_never_passes_an_open_ticket(
    partitions: list[int], random: Random
) -> None:
    """Whatever the order of acknowledgements, no committed offset skips an open batch."""
    ledger = _ledger()
    offset = [0, 0]
    tickets: dict[int, tuple[int, int]] = {}
    for p in partitions:
        ticket, _ = begin(ledger, _batch((p, offset[p]), generation=ledger.generation))
        tickets[ticket] = (p, offset[p])
        offset[p] += 1
    order = list(tickets)
    random.shuffle(order)
    committed, open_tickets = [0, 0], dict(tickets)
    for ticket in order:
        ledger.done([ticket])
        del open_tickets[ticket]
        for (_, p), after in ledger.committable().items():
            committed[p] = after
        assert all(at >= committed[p] for p, at in open_tickets.values())
    assert committed == offset
