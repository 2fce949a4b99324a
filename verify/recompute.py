"""The features and their state once more, from the rules alone: sorted lists and sums.

Per source partition there are a row for each customer and a share for each terminal; a share's
transactions and its outcomes are two rows, each of its own log. A row is sorted, drops what no
window can reach (by whole tiles before its newest event), and counts the oldest events beyond its
bound into tiles. `vector` gives a transaction's features, `customer_blob` and `share_blob` the
bytes that Redis must have. Integers everywhere; a quotient is one division of two floats.
"""

import bisect
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from features.contract import DAY_US, KERNEL_VERSION, Timing
from verify.xxh64 import hash_bytes

NEVER = -(2**62)
DELAY_US = 7 * DAY_US
HOUR_US = DAY_US // 24
WINDOWS = (1, 3, 7, 14, 21, 30)
LONGEST_DAYS, MEDIAN_LAST = 180, 127
CUSTOMER_EVENTS, CUSTOMER_TILE_US = 256, 3 * DAY_US
CUSTOMER_KEEP_US, CUSTOMER_TILES = 183 * DAY_US, 63
SHARE_EVENTS, SHARE_FRAUDS, SHARE_KEEP_US, SHARE_TILES = 128, 64, 45 * DAY_US, 47
LATE_MAX = 2**56 - 1


class Log:
    """The running maximum of a log's own times, and until when it was declared complete."""

    def __init__(self, timing: Timing, marks: Iterable[tuple[int, int]]) -> None:
        """`marks` are watermarks: from which offset on one holds, and its time."""
        self._lateness_us, self._marks = timing.lateness_us, sorted(marks, reverse=True)
        self.newest_us = self.quiet_us = NEVER

    def settle(self, offset: int) -> None:
        """Let the watermarks hold that do at this offset."""
        while self._marks and self._marks[-1][0] <= offset:
            self.quiet_us = max(self.quiet_us, self._marks.pop()[1])

    def seen_us(self, offset: int, own_us: int) -> int:
        """When the record at this offset with this time becomes visible."""
        self.settle(offset)
        self.newest_us = max(self.newest_us, own_us)
        return max(own_us, self.newest_us - self._lateness_us, self.quiet_us)


class Image(NamedTuple):
    """A row as it lies in a blob: how many events and tiles, their bases, their bytes."""

    events: int
    tiles: int
    base: int
    first_tile: int
    event_bytes: bytes
    tile_bytes: bytes


EMPTY = Image(0, 0, 0, 0, b"", b"")


class Tiles:
    """Counts of whole tiles, by the tile's number: events, sum of values, latest visibility."""

    def __init__(self, tile_us: int, keep_us: int) -> None:
        self.tile_us, self.keep_us = tile_us, keep_us
        self.held: dict[int, list[int]] = {}

    def gone(self, time_us: int, newest_us: int) -> bool:
        """Whether a time's tile is over before anything that windows at the newest can reach."""
        return (time_us // self.tile_us + 1) * self.tile_us <= newest_us - self.keep_us

    def drop(self, newest_us: int) -> None:
        """Drop the tiles that are gone."""
        for tile in [t for t in self.held if self.gone(t * self.tile_us, newest_us)]:
            del self.held[tile]

    def add(self, time_us: int, count: int, value: int, seen_us: int) -> None:
        """Count an event into its tile."""
        tile = self.held.setdefault(time_us // self.tile_us, [0, 0, NEVER])
        tile[0] += count
        tile[1] += value
        tile[2] = max(tile[2], seen_us)

    def image(self, form: tuple[int, ...]) -> tuple[int, bytes]:
        """The first tile's number, and all tiles' bytes; `form` are the sizes after the number."""
        first = min(self.held, default=0)
        rows = []
        for tile, (count, total, seen_us) in sorted(self.held.items()):
            late = seen_us - tile * self.tile_us
            numbers = (count, total, late) if len(form) == 3 else (count, _late(late))
            rows.append(_pack(tile - first, 2))
            rows += map(_pack, numbers, form)
        return first, b"".join(rows)


class Row:
    """Times in order, a second number beside each, and tiles for the oldest."""

    def __init__(self, events_max: int, tile_us: int, keep_us: int) -> None:
        self.times: list[int] = []
        self.others: list[int] = []
        self.tiles = Tiles(tile_us, keep_us)
        self._events_max = events_max

    def remember(self, time_us: int, other: int) -> None:
        """Insert an event."""
        times, others = self.times, self.others
        newest_us = max(time_us, times[-1]) if times else time_us
        gone = 0
        while gone < len(times) and self.tiles.gone(times[gone], newest_us):
            gone += 1
        del times[:gone], others[:gone]
        self.tiles.drop(newest_us)
        if self.tiles.gone(time_us, newest_us):
            return
        if len(times) == self._events_max:
            if (time_us, other) <= (times[0], others[0]):
                self._tile(time_us, other)
                return
            self._tile(times.pop(0), others.pop(0))
        at = bisect.bisect_right(times, time_us)
        while at > 0 and times[at - 1] == time_us and others[at - 1] > other:
            at -= 1
        times.insert(at, time_us)
        others.insert(at, other)

    def _tile(self, time_us: int, other: int) -> None:
        raise NotImplementedError


class Customer(Row):
    """A customer's transactions; beside each time its amount."""

    def __init__(self) -> None:
        super().__init__(CUSTOMER_EVENTS, CUSTOMER_TILE_US, CUSTOMER_KEEP_US)

    def _tile(self, time_us: int, other: int) -> None:
        self.tiles.add(time_us, 1, other, time_us)

    def features(self, t: int, amount: int) -> tuple[list[float], list[float]]:
        """Count and mean of 1, 7 and 30 days; the amount over means and median of before."""
        times, amounts = self.times, self.others
        end = bisect.bisect_right(times, t)
        counts, totals = [], []
        for days in (1, 7, 30, LONGEST_DAYS):
            first = bisect.bisect_right(times, t - days * DAY_US)
            counts.append(max(end - first, 0))
            totals.append(sum(amounts[first:end]))
        longest = counts[3]
        for tile, (count, total, seen_us) in self.tiles.held.items():
            middle = min(tile * CUSTOMER_TILE_US + CUSTOMER_TILE_US // 2, times[0])
            for k, days in enumerate((1, 7, 30, LONGEST_DAYS)):
                if seen_us <= t and middle > t - days * DAY_US:
                    counts[k] += count
                    totals[k] += total
        windows: list[float] = []
        for k in range(3):
            windows += [counts[k] + 1, (totals[k] + amount) / (100.0 * (counts[k] + 1))]
        ratios = [
            float(amount * counts[k]) / float(totals[k]) if totals[k] > 0 else 1.0 for k in (2, 3)
        ]
        last = sorted(amounts[end - min(longest, MEDIAN_LAST) : end])
        twice = last[(len(last) - 1) // 2] + last[len(last) // 2] if last else 0
        return windows, [*ratios, float(2 * amount) / float(twice) if twice > 0 else 1.0]

    def image(self) -> Image:
        """As in a blob."""
        base = self.times[0] if self.times else 0
        events = b"".join(
            _pack(t - base, 6) + _pack(amount, 5)
            for t, amount in zip(self.times, self.others, strict=True)
        )
        first, tiles = self.tiles.image((4, 8, 5))
        return Image(len(self.times), len(self.tiles.held), base, first, events, tiles)


class Visible:
    """Transactions at a terminal from one partition: all there will ever be, unbounded."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.others: list[int] = []
        self.any_late = False

    def add(self, time_us: int, seen_us: int) -> None:
        """Add one; nearly all come in order."""
        at = bisect.bisect_right(self.times, time_us)
        self.times.insert(at, time_us)
        self.others.insert(at, seen_us)
        self.any_late |= seen_us > time_us


def visible(row: Visible | Row, since_us: int, until_us: int, *, any_late: bool) -> list[int]:
    """The times after `since_us` of what is visible at `until_us`, in order."""
    first = bisect.bisect_right(row.times, since_us)
    last = bisect.bisect_right(row.times, until_us)
    if not any_late:
        return row.times[first:last]
    pairs = zip(row.times[first:last], row.others[first:last], strict=True)
    return [t for t, seen_us in pairs if seen_us <= until_us]


class Share(Row):
    """A partition's transactions at a terminal; beside each time when it is visible."""

    def __init__(self) -> None:
        super().__init__(SHARE_EVENTS, DAY_US, SHARE_KEEP_US)

    def _tile(self, time_us: int, other: int) -> None:
        self.tiles.add(time_us, 1, 0, other)

    def image(self) -> Image:
        """As in a blob."""
        base = self.times[0] if self.times else 0
        events = b"".join(
            _pack(t - base, 6) + _pack(_late(seen - t), 7)
            for t, seen in zip(self.times, self.others, strict=True)
        )
        first, tiles = self.tiles.image((4, 7))
        return Image(len(self.times), len(self.tiles.held), base, first, events, tiles)


class Outcome(NamedTuple):
    """A fraud, or with sign -1 the taking back of one."""

    time_us: int
    tag: int
    seen_us: int
    sign: int


class Outcomes:
    """A partition's outcomes at a terminal: the bounded row, and all that ever counted."""

    def __init__(self, timing: Timing) -> None:
        self.row: list[Outcome] = []
        self.tiles = Tiles(DAY_US, SHARE_KEEP_US)
        self.ever: list[Outcome] = []
        self._skew_us = timing.skew_us

    def remember(self, time_us: int, seen_us: int, tag: int, *, fraud: bool) -> None:
        """Insert an outcome, unless it says what is known."""
        same = (time_us, tag)
        if fraud == (sum(o.sign for o in self.row if o[:2] == same) > 0):
            return
        new = Outcome(time_us, tag, seen_us, 1 if fraud else -1)
        bisect.insort(self.ever, new, key=lambda o: o.time_us)
        newest_us = max(time_us, self.row[-1].time_us) if self.row else time_us
        self.row = [o for o in self.row if not self.tiles.gone(o.time_us, newest_us)]
        self.tiles.drop(newest_us)
        if self.tiles.gone(time_us, newest_us):
            return
        if len(self.row) == SHARE_FRAUDS:
            oldest = new if same < self.row[0][:2] else self.row.pop(0)
            counts_us = max(oldest.time_us + DELAY_US, oldest.seen_us + self._skew_us)
            self.tiles.add(oldest.time_us, oldest.sign, 0, counts_us)
            if oldest is new:
                return
        bisect.insort(self.row, new, key=lambda o: o[:2])

    def image(self) -> Image:
        """As in a blob."""
        base = self.row[0].time_us if self.row else 0
        events = b"".join(
            _pack(o.time_us - base, 6) + _pack(_late(o.seen_us - o.time_us), 7)
            + _pack(o.tag, 4) + _pack(o.sign, 1)
            for o in self.row
        )  # fmt: skip
        first, tiles = self.tiles.image((4, 7))
        return Image(len(self.row), len(self.tiles.held), base, first, events, tiles)


class Place(NamedTuple):
    """What is known of a terminal, by partition."""

    events: dict[int, Visible]
    outcomes: dict[int, Outcomes]


def vector(
    t: int, amount: int, customer: Customer, share: Share, place: Place, partition: int,
    timing: Timing,
) -> list[float]:  # fmt: skip
    """The features of a transaction; it is in none of the rows yet.

    True for what is not provisional: then no tile but of its own share reaches into a window.
    """
    hours = t // HOUR_US
    own = [amount / 100.0, float((hours // 24 + 3) % 7 >= 5), float(hours % 24 < 7)]
    windows, ratios = customer.features(t, amount)
    counts, frauds, run = _terminal(t, share, place, partition, timing)
    shares = [f / n if n > 0 else 0.0 for n, f in zip(counts, frauds, strict=True)]
    risks = [x for w in (0, 2, 5) for x in (counts[w], shares[w])]
    rates = [x for w in (1, 3, 4) for x in (frauds[w], shares[w])]
    return [*own, *windows, *risks, *ratios, *run, *rates]


def _terminal(
    t: int, share: Share, place: Place, partition: int, timing: Timing
) -> tuple[list[int], list[int], tuple[float, float]]:
    """By window, how many transactions and frauds; and the run of frauds that goes on."""
    until, known = t - DELAY_US, t - timing.skew_us
    since = until - WINDOWS[-1] * DAY_US
    times = visible(share, since, until, any_late=True)
    for q, its in place.events.items():
        if q != partition:
            times += visible(its, since, until, any_late=its.any_late)
    times.sort()
    counts = [len(times) - bisect.bisect_right(times, until - days * DAY_US) for days in WINDOWS]
    for day, (count, _, seen_us) in share.tiles.held.items():
        at = min(day * DAY_US + DAY_US // 2, share.times[0])
        for w, days in enumerate(WINDOWS):
            counts[w] += count * (seen_us <= until and at > until - days * DAY_US)
    said = [
        o
        for its in place.outcomes.values()
        for o in its.ever[bisect.bisect_right(its.ever, since, key=lambda o: o.time_us) :]
        if o.time_us <= until and o.seen_us <= known
    ]
    frauds = [sum(o.sign for o in said if o.time_us > until - d * DAY_US) for d in WINDOWS]
    begun = NEVER
    if frauds[-1] > 0:
        for at in sorted(set(times), reverse=True):
            if sum(o.sign for o in said if o.time_us == at) <= 0:
                break
            begun = at
    return counts, frauds, (float(begun > NEVER), (t - begun) / DAY_US if begun > NEVER else 0.0)


def customer_blob(row: Image) -> bytes:
    """A customer's value in Redis."""
    numbers = _pack(row.events, 2) + _pack(row.tiles, 2) + _pack(row.base, 8)
    return _sealed(
        CUSTOMER_HEAD, numbers + _pack(row.first_tile, 4) + row.event_bytes + row.tile_bytes
    )


def share_blob(events: Image, frauds: Image) -> bytes:
    """The value in Redis of a terminal's share."""
    rows = (events, frauds)
    numbers = [
        *(_pack(size, 2) for row in rows for size in (row.events, row.tiles)),
        *(_pack(row.base, 8) for row in rows),
        *(_pack(row.first_tile, 4) for row in rows),
        *(row.event_bytes for row in rows),
        *(row.tile_bytes for row in rows),
    ]
    return _sealed(SHARE_HEAD, b"".join(numbers))


def _head(magic: bytes, layout: str, bounds: tuple[int, ...]) -> bytes:
    return magic + hashlib.sha256(repr((KERNEL_VERSION, layout, bounds)).encode()).digest()[:4]


CUSTOMER_HEAD = _head(
    b"RWC2",
    "events 2, tiles 2, base 8, first 4; time 6, amount 5; tile 2, count 4, sum 8, seen 5",
    (CUSTOMER_EVENTS, CUSTOMER_TILES, CUSTOMER_TILE_US, CUSTOMER_KEEP_US),
)
SHARE_HEAD = _head(
    b"RWS2",
    "events 2, tiles 2, frauds 2, tiles 2, base 8, base 8, first 4, first 4;"
    " time 6, seen 7; time 6, seen 7, tag 4, sign 1; tile 2, count 4, seen 7",
    (SHARE_EVENTS, SHARE_FRAUDS, SHARE_TILES, SHARE_KEEP_US),
)


def _sealed(head: bytes, payload: bytes) -> bytes:
    return head + hash_bytes(payload).to_bytes(8, "little") + payload


def _late(late_us: int) -> int:
    return min(max(late_us, 0), LATE_MAX)


def _pack(number: int, size: int) -> bytes:
    """The low bytes of a number, little-endian."""
    return (number & (1 << 8 * size) - 1).to_bytes(size, "little")
