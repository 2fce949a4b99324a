"""Alignment `wait`: who may go on, who must not, and that the earliest always moves."""

import numpy as np

from app.align import Alignment, too_many
from app.live import DELAY_US, Live
from app.meta import Meta
from app.records import RecordBatch
from features.contract import REPLAY
from features.state import LABELS, NEVER, TRANSACTIONS
from tests.app.builders import T0, record_batch

HOUR = 3_600_000_000
DAY = 24 * HOUR


def _alignment(partitions: int = 2) -> tuple[Alignment, Live]:
    live = Live(REPLAY, partitions, 4096, 4096)
    for partition in range(partitions):
        live.adopt(partition, Meta(partitions), (0, 0))
    return Alignment(live, lambda records: records.generation == 0), live


def _records(partition: int, n: int, *, labels: bool = False, generation: int = 0) -> RecordBatch:
    rows = [(partition, i, b"c", b"v") for i in range(n)]
    topic = "labels" if labels else "transactions"
    return record_batch(rows, topic=topic, generation=generation)


def _apply(live: Live, log: int, partition: int, time_us: int) -> None:
    live.state.newest_us[log, partition] = time_us


def test_a_transaction_waits_for_outcomes_and_for_the_other_partition() -> None:
    """Past t - skew of every labels log, past t - delay of every other transactions log."""
    alignment, live = _alignment()
    alignment.add(TRANSACTIONS, _records(0, 1), np.array([T0]))
    assert alignment.ready() is None
    for partition in range(2):
        _apply(live, LABELS, partition, T0)
    assert alignment.ready() is None
    _apply(live, TRANSACTIONS, 1, T0 - DELAY_US + REPLAY.lateness_us)
    assert alignment.ready() is None, "passed strictly"
    _apply(live, TRANSACTIONS, 1, T0 - DELAY_US + REPLAY.lateness_us + 1)
    ready = alignment.ready()
    assert ready is not None
    assert len(ready) == 1
    assert alignment.ready() is None


def test_the_beginning_of_a_batch_goes_on_and_the_rest_waits_in_order() -> None:
    """Records after the first that must wait wait too, whatever their time."""
    alignment, live = _alignment(1)
    _apply(live, LABELS, 0, T0)
    limit = T0 - REPLAY.lateness_us + REPLAY.skew_us
    times = np.array([T0, limit - 1, limit, T0])
    alignment.add(TRANSACTIONS, _records(0, 4), times)
    ready = alignment.ready()
    assert ready is not None
    assert ready.offset.tolist() == [0, 1]
    assert alignment.ready() is None
    assert alignment.waiting() == {(TRANSACTIONS, 0): 2}
    _apply(live, LABELS, 0, T0 + HOUR)
    ready = alignment.ready()
    assert ready is not None
    assert ready.offset.tolist() == [2, 3]


def test_of_two_that_wait_for_each_other_the_earlier_goes_on() -> None:
    """A gap longer than the delay in both logs: the record that waits counts as read."""
    alignment, live = _alignment()
    for partition in range(2):
        _apply(live, LABELS, partition, T0 + 100 * DAY)
        _apply(live, TRANSACTIONS, partition, T0)
    alignment.add(TRANSACTIONS, _records(0, 1), np.array([T0 + 20 * DAY]))
    assert alignment.ready() is None
    alignment.add(TRANSACTIONS, _records(1, 1), np.array([T0 + 30 * DAY]))
    ready = alignment.ready()
    assert ready is not None
    assert ready.partition.tolist() == [0]
    _apply(live, TRANSACTIONS, 0, T0 + 20 * DAY)
    assert alignment.ready() is None


def test_outcomes_do_not_run_far_ahead_nor_wait_behind_held_transactions() -> None:
    """A delay ahead of the earliest transaction, and no further."""
    alignment, _ = _alignment(1)
    times = np.array([T0, T0 + DELAY_US - 1, T0 + DELAY_US])
    alignment.add(LABELS, _records(0, 3, labels=True), times)
    assert alignment.ready() is None, "no transaction was seen yet"
    alignment.add(TRANSACTIONS, _records(0, 1), np.array([T0]))
    ready = alignment.ready()
    assert ready is not None
    assert (ready.topic, len(ready)) == ("labels", 2)


def test_records_that_cannot_be_read_hold_nothing_up() -> None:
    """They have no time and become dead letters in their turn."""
    alignment, _ = _alignment(1)
    alignment.add(TRANSACTIONS, _records(0, 2), np.array([NEVER, NEVER]))
    ready = alignment.ready()
    assert ready is not None
    assert len(ready) == 2


def test_stale_records_are_dropped() -> None:
    """Of partitions given up, or to be read again."""
    alignment, _ = _alignment(1)
    alignment.add(TRANSACTIONS, _records(0, 2, generation=1), np.array([NEVER, NEVER]))
    assert alignment.ready() is None
    assert alignment.waiting() == {}


def test_logs_of_which_too_many_records_wait_are_named() -> None:
    """By topic and partition, for the consumer to pause."""
    waiting = {(TRANSACTIONS, 0): 5, (LABELS, 1): 11}
    assert too_many(waiting, ("t", "l"), 10) == {("l", 1)}
