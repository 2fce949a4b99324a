"""Who reads the outputs while all goes wrong: how much came out, and when each partition moved."""

import threading
from contextlib import suppress

from app.adapters.follow import Follower
from app.config import Settings
from app.errors import Unavailable

STOP_S_MAX = 10.0


class Reader:
    """Follows scores and dead letters on a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.counted = 0
        """Scores and dead letters."""
        self.made_ms = dict.fromkeys(range(settings.partitions), 0)
        """By partition, when the newest score that is readable was made (ms since 1970)."""
        self.error: Exception | None = None
        """What ended it before it was stopped."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="riskwire-reader", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether it reads no more."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 -- the campaign says it
            self.error = error

    def _read(self) -> None:
        scores = self._settings.topic("scores")
        topics = [scores, self._settings.topic("dead_letters")]
        with Follower(self._settings, topics, from_beginning=True) as follower:
            while not self._stop.is_set():
                with suppress(Unavailable):
                    for record in follower.poll(0.1):
                        self.counted += 1
                        if record.topic == scores:
                            made_ms = max(self.made_ms[record.partition], record.timestamp_ms)
                            self.made_ms[record.partition] = made_ms

    def stop(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join(STOP_S_MAX)
