"""The breaker: a flood of rejects pauses the intake, rather than drain a topic into dead letters.

Counts go in as batches are decided on; out comes whether the topic may be read. It opens when more
than a share of the last minute's records were rejected. Then nothing is read until the pause is
over; one batch is, as a probe. If that is good it closes; if not it waits again, twice as long.
What was rejected stays rejected. Pure, the clock is an argument; two threads may use it.
"""

import threading
from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 60.0
SLOT_S = 1.0
PAUSE_GROWS_MAX = 16


@dataclass(slots=True)
class Breaker:
    """Of one topic. Pauses begin with `pause_s` and double up to PAUSE_GROWS_MAX times that."""

    share_max: float
    records_min: int
    pause_s: float
    reason: str = ""
    """Why the intake is paused; empty where it is not."""
    _slots: deque[tuple[float, int, int]] = field(default_factory=deque)
    _until_s: float = 0.0
    _pauses: int = 1
    _probing: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, now_s: float) -> bool:
        """Whether nothing is to be read now."""
        return bool(self.reason) and now_s < self._until_s

    def took(self, now_s: float) -> None:
        """A batch was read. Where that is the probe, no other is until its verdict.

        If none comes, since its partition was given up, the next probe is a pause later.
        """
        with self._lock:
            if self.reason and now_s >= self._until_s:
                self._probing = True
                self._until_s = now_s + self._pauses * self.pause_s

    def count(self, records: int, rejects: int, now_s: float) -> None:
        """A batch was decided on: so many records, of which so many were rejected."""
        with self._lock:
            if not self.reason:
                records, rejects = self._add(records, rejects, now_s)
                if records >= self.records_min:
                    self._judge(records, rejects, now_s)
            elif self._probing and records:
                self._probing = False
                self._judge(records, rejects, now_s)

    def _add(self, records: int, rejects: int, now_s: float) -> tuple[int, int]:
        """Records and rejects of the last minute, these included."""
        slots = self._slots
        if slots and now_s < slots[-1][0] + SLOT_S:
            began_s, before, rejected = slots.pop()
            slots.append((began_s, before + records, rejected + rejects))
        else:
            slots.append((now_s, records, rejects))
        while slots[0][0] <= now_s - WINDOW_S:
            slots.popleft()
        return sum(slot[1] for slot in slots), sum(slot[2] for slot in slots)

    def _judge(self, records: int, rejects: int, now_s: float) -> None:
        if rejects <= self.share_max * records:
            self.reason, self._pauses = "", 1
            return
        if self.reason:
            self._pauses = min(2 * self._pauses, PAUSE_GROWS_MAX)
        self._slots.clear()
        self._until_s = now_s + self._pauses * self.pause_s
        self.reason = (
            f"{rejects:,} of {records:,} records were rejected; one batch is tried"
            f" every {self._pauses * self.pause_s:g} s (see `riskwire dlq ls`)"
        )
