"""Which input offsets may be committed: the record of what is owned, in hand and acknowledged.

Its users are the consumer's thread (`assigned`, `released`, `rewound`, `committable`), the pipeline
(`admit`, `done`) and the thread of transactions (`offsets`, `done`). A batch gets a ticket when its
processing begins; its offsets become committable once every output of it and of all earlier tickets
is acknowledged. Records of partitions that were given up since they were polled are not admitted.
"""

import threading
from collections.abc import Iterable, Mapping

import numpy as np

from app.records import Int64s, RecordBatch

Position = tuple[str, int]
_NOT_OWNED = np.iinfo(np.int64).max


class Ledger:
    """Offsets of one consumer, from polled to committed."""

    def __init__(self) -> None:
        """Start with nothing owned."""
        self._lock = threading.Condition()
        self._owned_since: dict[str, Int64s] = {}  # by topic: generation by partition
        self._tickets: dict[int, dict[Position, int]] = {}  # begun and not acknowledged, in order
        self._done: set[int] = set()
        self._committable: dict[Position, int] = {}
        self._last_ticket = 0
        self.last_admitted = 0
        """The newest ticket of a batch."""
        self.generation = 0

    def assigned(self, partitions: Iterable[Position]) -> None:
        """These partitions are read by us; only batches polled from now on may carry them."""
        with self._lock:
            self.generation += 1
            for topic, partition in partitions:
                since = self._owned_since.get(topic, np.empty(0, np.int64))
                if partition >= len(since):
                    more = np.full(partition + 1 - len(since), _NOT_OWNED)
                    since = np.concatenate([since, more])
                since[partition] = self.generation
                self._owned_since[topic] = since

    def released(self, partitions: Iterable[Position]) -> None:
        """These partitions are ours no longer; what is begun may still finish."""
        with self._lock:
            for topic, partition in partitions:
                since = self._owned_since.get(topic, np.empty(0, np.int64))
                if partition < len(since):
                    since[partition] = _NOT_OWNED

    def forget(self, partitions: Iterable[Position]) -> None:
        """Commit nothing more of these partitions."""
        with self._lock:
            for at in partitions:
                self._committable.pop(at, None)
                for offsets in self._tickets.values():
                    offsets.pop(at, None)

    def admit(self, batch: RecordBatch) -> tuple[int, RecordBatch] | None:
        """Begin a batch: its ticket and its records of owned partitions; None if there are none."""
        with self._lock:
            since = self._owned_since.get(batch.topic, np.empty(0, np.int64))
            known = np.append(since, _NOT_OWNED)[np.minimum(batch.partition, len(since))]
            mine = known <= batch.generation
            if not mine.all():
                batch = batch.take(np.flatnonzero(mine))
            if not len(batch):
                return None
            self._last_ticket = self.last_admitted = self._last_ticket + 1
            offsets = {(batch.topic, p): offset for p, offset in next_offsets(batch).items()}
            self._tickets[self._last_ticket] = offsets
            return self._last_ticket, batch

    def begin(self, offsets: Mapping[Position, int]) -> int:
        """A ticket for outputs that come of no records, after those before these offsets."""
        with self._lock:
            self._last_ticket += 1
            self._tickets[self._last_ticket] = dict(offsets)
            return self._last_ticket

    @property
    def last_ticket(self) -> int:
        """The newest ticket."""
        return self._last_ticket

    def is_done(self, ticket: int) -> bool:
        """Whether this ticket and all before it are done, or dropped by a rewind."""
        with self._lock:
            return next(iter(self._tickets), ticket + 1) > ticket

    def admits(self, batch: RecordBatch) -> bool:
        """Whether the batch's first record would be admitted now."""
        with self._lock:
            since = self._owned_since.get(batch.topic, np.empty(0, np.int64))
            at = int(batch.partition[0])
            return at < len(since) and bool(since[at] <= batch.generation)

    def done(self, tickets: Iterable[int]) -> None:
        """Every output of these tickets is acknowledged. Tickets of before a rewind are ignored."""
        with self._lock:
            self._done.update(ticket for ticket in tickets if ticket in self._tickets)
            while self._tickets and (head := next(iter(self._tickets))) in self._done:
                self._committable.update(self._tickets.pop(head))
                self._done.discard(head)
            self._lock.notify_all()

    def offsets(self, tickets: Iterable[int]) -> dict[Position, int]:
        """The next offsets that these tickets complete; they are done in order."""
        with self._lock:
            found: dict[Position, int] = {}
            for ticket in tickets:
                found |= self._tickets.get(ticket, {})
            return found

    def is_open(self, ticket: int) -> bool:
        """Whether this batch is begun, not done and not dropped by a rewind."""
        with self._lock:
            return ticket in self._tickets and ticket not in self._done

    def committable(self) -> dict[Position, int]:
        """The next offsets that became committable since the last call."""
        with self._lock:
            offsets, self._committable = self._committable, {}
            return offsets

    def wait_idle(self, partitions: set[Position] | None, timeout_s: float) -> bool:
        """Wait until nothing of these partitions (None: of any) is in hand."""

        def idle() -> bool:
            if partitions is None:
                return not self._tickets
            return not any(partitions & offsets.keys() for offsets in self._tickets.values())

        with self._lock:
            return self._lock.wait_for(idle, timeout_s)

    def rewound(self) -> None:
        """Drop all that is in hand; batches polled until now are not admitted any more."""
        with self._lock:
            self.generation += 1
            self._tickets.clear()
            self._done.clear()
            self._committable.clear()
            for since in self._owned_since.values():
                since[since != _NOT_OWNED] = self.generation
            self._lock.notify_all()


def next_offsets(batch: RecordBatch) -> dict[int, int]:
    """By partition, the offset after the batch's last record of it."""
    after = np.full(int(batch.partition.max()) + 1, -1)
    after[batch.partition] = batch.offset + 1  # the last of equal indexes stays
    return {int(p): int(after[p]) for p in np.flatnonzero(after >= 0)}
