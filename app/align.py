"""Alignment `wait`: no record goes on before all that its vector depends on is there.

Batches wait here by log and partition; `ready` gives the longest beginning of one that may go on
now. A transaction at t goes on once every other partition's transactions are read past t - delay
and every partition's outcomes past t - skew (`features.state` has these watermarks). A record that
waits counts as read for the others: later ones of its log cannot be older, but for the lateness.
So the earliest transaction always moves. Outcomes go on until they are a delay ahead of the
earliest transaction, never behind held transactions: farther, and shares would drop what windows
still reach. For replays at full speed, where one partition may be days ahead of another. What other
workers have read counts as far as `Live.hear` was told. Pure.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.ledger import Position
from app.live import DELAY_US, Live
from app.records import Int64s, RecordBatch
from features.state import ALWAYS, LABELS, NEVER, TRANSACTIONS


@dataclass(slots=True, eq=False)
class _Waiting:
    records: RecordBatch
    times_us: Int64s


class Alignment:
    """What waits, by log and partition."""

    def __init__(self, live: Live, is_current: Callable[[RecordBatch], bool]) -> None:
        """`is_current` tells records that were given up or go to be read again from others."""
        self._live, self._is_current = live, is_current
        self._queues: dict[tuple[int, int], deque[_Waiting]] = {}

    def add(self, log: int, records: RecordBatch, times_us: Int64s) -> None:
        """Let records wait; `times_us` int64 (n,) are their own times, NEVER for what is none."""
        for partition in np.unique(records.partition).tolist():
            rows = np.flatnonzero(records.partition == partition)
            queue = self._queues.setdefault((log, partition), deque())
            queue.append(_Waiting(records.take(rows), times_us[rows]))

    def ready(self) -> RecordBatch | None:
        """The next records that may go on, of one partition; None where all must wait."""
        self._drop_stale()
        self._hold_heads()
        limits = self._limits(self._live.state.watermarks())
        for (log, partition), queue in sorted(self._queues.items(), reverse=True):  # labels first
            head = queue[0]
            late = np.flatnonzero(head.times_us >= limits[log][partition])
            count = int(late[0]) if len(late) else len(head.records)
            if count == len(head.records):
                return queue.popleft().records
            if count:
                rows = np.arange(len(head.records))
                queue[0] = _Waiting(head.records.take(rows[count:]), head.times_us[count:])
                return head.records.take(rows[:count])
        return None

    def waiting(self) -> dict[tuple[int, int], int]:
        """How many records wait, by log and partition."""
        return {at: sum(len(w.records) for w in queue) for at, queue in self._queues.items()}

    def _drop_stale(self) -> None:
        for at, queue in list(self._queues.items()):
            while queue and not self._is_current(queue[0].records):
                queue.popleft()
            if not queue:
                del self._queues[at]

    def _hold_heads(self) -> None:
        held = self._live.state.held_us
        for (log, partition), queue in self._queues.items():
            held[log, partition] = max(held[log, partition], int(queue[0].times_us[0]))

    def _limits(self, marks: Int64s) -> tuple[Int64s, Int64s]:
        """Each partition's first time that must wait, of transactions and of labels."""
        skew_us = self._live.timing.skew_us
        payments, outcomes = marks[TRANSACTIONS], marks[LABELS]
        n = len(payments)
        first, second = _two_lowest(payments)
        others = np.where(np.arange(n) == int(payments.argmin()), second, first)
        known = payments[payments > NEVER]
        earliest = int(known.min()) + self._live.timing.lateness_us if len(known) else NEVER
        return (
            np.minimum(others + DELAY_US, int(outcomes.min()) + skew_us),
            np.full(n, earliest + DELAY_US),
        )


def _two_lowest(values: Int64s) -> tuple[int, int]:
    ordered = np.sort(values)
    return int(ordered[0]), int(ordered[1]) if len(ordered) > 1 else ALWAYS - DELAY_US


def too_many(
    waiting: dict[tuple[int, int], int], topics: tuple[str, str], most: int
) -> set[Position]:
    """The logs of which more than `most` records wait: no more should be read of them."""
    return {(topics[log], partition) for (log, partition), n in waiting.items() if n > most}
