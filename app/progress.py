"""How far the state of owned partitions is: what it has still to catch up with, and what it lacks.

A partition is ready once the records that were answered before this worker came are in its state.
What was gone from the logs before it could enter the state is lacking until no window reaches so
far back. Pure but for the clock that is handed in; any thread may ask.
"""

from collections.abc import Iterator

from app.live import Live
from app.meta import Meta, Pair
from features.contract import DAY_US, LABEL_DELAY_DAYS, LONGEST_DAYS

REBUILD_DAYS = LONGEST_DAYS + LABEL_DELAY_DAYS + 1
"""How far back the state reaches: the longest window, the delay, up to a day of tiles and skew."""
REBUILD_US = REBUILD_DAYS * DAY_US
STALLED_US = 30_000_000
"""Where nothing came for so long nothing will: a log may end before the offset that was committed,
after transactions that were aborted."""


class Progress:
    """Of the partitions of one live state."""

    def __init__(self, live: Live) -> None:
        """Watch this state."""
        self._live = live
        self._seen: dict[int, tuple[Pair, int]] = {}

    def behind(self, now_us: int) -> dict[int, Pair]:
        """By partition that is not ready, how many transactions and labels it has still to read."""
        found: dict[int, Pair] = {}
        for partition in tuple(self._live.owned):
            until = self._live.silent_until.get(partition, (0, 0))
            at = [self._live.next_offset.get((log, partition), 0) for log in (0, 1)]
            its = max(until[0] - at[0], 0), max(until[1] - at[1], 0)
            before, since_us = self._seen.get(partition, ((-1, -1), now_us))
            if its != before:
                since_us = now_us
            self._seen[partition] = its, since_us
            if its != (0, 0) and now_us - since_us < STALLED_US:
                found[partition] = its
        return found

    def incomplete(self, now_us: int) -> dict[int, bool]:
        """By owned partition, whether records that a window reaches are not in its state."""
        since_us = self._live.whole_since_us
        return {p: reaches(since_us.get(p, 0), now_us) for p in tuple(self._live.owned)}

    def reasons(self, now_us: int) -> Iterator[str]:
        """Why the worker is not ready yet."""
        for partition, (transactions, labels) in sorted(self.behind(now_us).items()):
            yield (
                f"partition {partition} catches up: {transactions:,} transactions and {labels:,}"
                " labels are still to be read"
            )


def reaches(whole_since_us: int, now_us: int) -> bool:
    """Whether a window reaches back to where records are lacking."""
    return whole_since_us > now_us - REBUILD_US and whole_since_us > 0


def never_began(meta: Meta, committed: Pair) -> bool:
    """Whether a backfilled past is all there ever was: its end lies before the oldest record."""
    return bool(meta.base) and meta.next_offset == (0, 0) and max(committed) <= 0
