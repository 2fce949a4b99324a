"""How long records wait: by partition, the age of the oldest one that is not scored yet.

The consumer's thread says what it hands over (`polled`), the pipeline what it has done (`scored`);
whoever scrapes, and whoever sheds load, asks. Age counts from the record's timestamp, so it holds
what the record waited at the broker too. Records that a former owner has answered do not count.
"""

import threading
from collections import deque
from collections.abc import Mapping

import numpy as np

from app.ledger import Position, next_offsets
from app.records import RecordBatch

_TYPE_NOT_AVAILABLE = 0


class Ages:
    """Of one consumer's partitions; any thread may call."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._lock = threading.Lock()
        self._waiting: dict[Position, deque[tuple[int, int]]] = {}  # next offset, µs of the first
        self._newest_us: dict[Position, int] = {}
        self._behind: set[Position] = set()

    def polled(self, batch: RecordBatch, answered: Mapping[Position, int]) -> None:
        """These records wait now, but for those below the offsets that were answered."""
        after = next_offsets(batch)
        unknown = batch.timestamp_type == _TYPE_NOT_AVAILABLE
        time_us = np.where(unknown, batch.polled_us, batch.timestamp_ms * 1000)
        with self._lock:
            for partition, next_offset in after.items():
                at = (batch.topic, partition)
                its = batch.partition == partition
                its &= batch.offset >= answered.get(at, 0)
                if its.any():
                    self._newest_us[at] = int(time_us[its].max())
                    oldest_us = int(time_us[its].min())
                    self._waiting.setdefault(at, deque()).append((next_offset, oldest_us))

    def scored(self, batch: RecordBatch) -> None:
        """These records, and all before them, wait no longer."""
        with self._lock:
            for partition, next_offset in next_offsets(batch).items():
                waiting = self._waiting.get((batch.topic, partition), deque())
                while waiting and waiting[0][0] <= next_offset:
                    waiting.popleft()

    def behind(self, lags: Mapping[Position, int]) -> None:
        """How many records of each owned partition are at the broker and not handed over."""
        with self._lock:
            self._behind = {at for at, lag in lags.items() if lag > 0}

    def forget(self, partitions: set[Position] | None = None) -> None:
        """These partitions (None: all) are given up, or read again."""
        with self._lock:
            gone = partitions if partitions is not None else set(self._newest_us)
            for at in gone:
                self._waiting.pop(at, None)
                self._newest_us.pop(at, None)
            self._behind -= gone

    def ages_us(self, now_us: int) -> dict[Position, int]:
        """The age of each partition's oldest record that waits; 0 where none does.

        Where all that waits is still at the broker it is at most the age of the last one read.
        """
        with self._lock:
            return {
                at: max(0, now_us - self._oldest_us(at, newest_us, now_us))
                for at, newest_us in self._newest_us.items()
            }

    def _oldest_us(self, at: Position, newest_us: int, now_us: int) -> int:
        if waiting := self._waiting.get(at):
            return waiting[0][1]
        return newest_us if at in self._behind else now_us

    def oldest_us(self, now_us: int, topic: str) -> int:
        """The age of the oldest record of a topic that waits, 0 where none does."""
        ages = self.ages_us(now_us).items()
        return max((age for at, age in ages if at[0] == topic), default=0)
