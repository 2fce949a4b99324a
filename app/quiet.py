"""Which logs may be declared complete: those that were read to their end and stay quiet.

Pure: the clock comes in as an argument, and what is found is declared by `app.ownership`.
"""

from collections.abc import Mapping

from app.ledger import Position
from app.live import Live
from app.watermarks import Watermark

REDECLARE_SHARE = 2
"""A log that stays quiet is declared again when so much of the lateness has passed."""


class QuietLogs:
    """Where the logs of owned partitions stand, and since when."""

    def __init__(self, live: Live, topics: tuple[str, str]) -> None:
        """`topics` are transactions and labels."""
        self._live, self._topics = live, topics
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}  # offset, and when that was seen

    def forget(self, partition: int) -> None:
        """Begin anew with a partition that was claimed."""
        self._seen = {at: seen for at, seen in self._seen.items() if at[1] != partition}

    def found(self, ends: Mapping[Position, int], now_us: int) -> list[tuple[int, Watermark]]:
        """Partitions with what may be declared of them.

        `ends` are the logs read to their end, with the offset up to which their records came.
        """
        live, lateness_us, found = self._live, self._live.timing.lateness_us, []
        for (log, partition), offset in live.next_offset.items():
            last, since_us = self._seen.get((log, partition), (-1, 0))
            if last != offset:
                self._seen[log, partition] = (offset, now_us)
            elif ends.get((self._topics[log], partition), offset + 1) <= offset:
                mark = Watermark(log, offset, now_us - lateness_us)
                known_us = live.state.watermarks()[log, partition]
                often_enough = mark.until_us - known_us >= lateness_us // REDECLARE_SHARE
                if now_us - since_us >= lateness_us and often_enough:
                    found.append((partition, mark))
        return found
