"""The concurrent reader: what a read_committed consumer sees of the outputs while all goes wrong.

It keeps a running digest of every output partition, to be compared with what lies there in the end
(law C4), counts what came out, and says when each partition moved last, so that takeovers can be
measured.
"""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from app.adapters.follow import Follower, Seen
from app.config import Settings
from app.errors import Unavailable

OUTPUTS: tuple[Literal["scores", "alerts", "dead_letters"], ...] = (
    "scores",
    "alerts",
    "dead_letters",
)
QUIET_S = 1.5
Place = tuple[str, int]


class Digests:
    """By topic and partition, the digest of all records so far and the last offset."""

    def __init__(self) -> None:
        self._sums: dict[Place, "hashlib._Hash"] = defaultdict(hashlib.sha256)
        self.last: dict[Place, int] = {}
        self.disordered: list[str] = []

    def add(self, record: Seen) -> None:
        """Take in the next record of its partition."""
        at = record.topic, record.partition
        if record.offset <= self.last.get(at, -1):
            self.disordered.append(f"{at} went back to offset {record.offset}")
        self.last[at] = record.offset
        kept = (record.offset, record.key, record.value, sorted(record.headers.items()))
        self._sums[at].update(repr(kept).encode())

    def found(self) -> dict[Place, str]:
        """The digests."""
        return {at: its.hexdigest() for at, its in self._sums.items()}


class Reader:
    """Follows the outputs on a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scores = settings.topic("scores")
        self._letters = settings.topic("dead_letters")
        self.digests = Digests()
        self.counted = 0
        """Scores and dead letters."""
        self.made_ms = dict.fromkeys(range(settings.partitions), 0)
        """By partition, when the newest score that is readable was made (ms since 1970)."""
        self.fault = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="riskwire-reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            topics = [self._settings.topic(role) for role in OUTPUTS]
            with Follower(self._settings, topics, from_beginning=True) as follower:
                while not self._stop.is_set():
                    with suppress(Unavailable):
                        for record in follower.poll(0.1):
                            self._take(record)
        except Exception as error:  # noqa: BLE001 -- the campaign says it
            self.fault = f"the concurrent reader ended: {error!r}"

    def _take(self, record: Seen) -> None:
        self.digests.add(record)
        self.counted += record.topic in {self._scores, self._letters}
        if record.topic == self._scores:
            at = record.partition
            self.made_ms[at] = max(self.made_ms[at], record.timestamp_ms)

    def ended(self, ends: dict[Place, int], timeout_s: float) -> bool:
        """Wait until it has read so far, then end it; False where it did not come to that."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until and not self.fault:
            if all(self.digests.last.get(at, -1) >= end for at, end in ends.items()):
                break
            time.sleep(0.05)
        self._stop.set()
        self._thread.join(10.0)
        return time.monotonic() < until


def read_all(settings: Settings, roles: Sequence[str] = OUTPUTS) -> list[Seen]:
    """Everything that is committed in these topics, partition by partition in order."""
    records: list[Seen] = []
    topics = [settings.topic(role) for role in roles]  # type: ignore[arg-type]
    with Follower(settings, topics, from_beginning=True) as follower:
        heard_s = time.monotonic()
        while time.monotonic() - heard_s < QUIET_S:
            if found := follower.poll(0.1):
                records += found
                heard_s = time.monotonic()
    return records
