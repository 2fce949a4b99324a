"""Which row of the feature state belongs to which entity: a bounded hash table on tokens.

A token has its row as long as it stays; `rows` finds the rows of a batch and gives new tokens a
free one. The token's own bytes decide, so that a collision of hashes costs a comparison, never
somebody else's history. Where room runs out, the least recently used rows that may go are given up
(`evict`), many at once. One thread at a time. Raises TableFull where nothing may go.
"""

from typing import Any, NamedTuple

import numpy as np

from app.records import Bytes, Int32s, Int64s, Ragged
from features.compiled import compiled, prefetch
from features.state import Flags
from features.xxh64 import UInt64s, hash_bytes

TOKEN_BYTES_MAX = 64
EMPTY = -1
AHEAD = 8
"""So many tokens ahead the memory of a row is fetched, and that of the index twice as many."""
SPARE_SHARE = 8
"""One row in so many is freed at an eviction, so that evictions are rare."""


class TableFull(Exception):  # noqa: N818 -- a state of the table, not a fault
    """No row is free and none may be given up: flush first."""


class _Slots(NamedTuple):
    """`places` (2^k,) holds rows or EMPTY by hash, open addressing; the rest is one entry a row."""

    places: Int32s
    tag: UInt64s
    length: Int32s
    token: Bytes
    group: Int32s
    used: Int64s
    free: Int32s
    counts: Int64s  # calls of `rows`, free rows


class Table:
    """Rows 0..`size`-1 by token and group (a partition, or 0 for all)."""

    def __init__(self, size: int) -> None:
        """Make an empty table."""
        self.size = size
        places = 1 << (2 * size - 1).bit_length()
        self._slots = _Slots(
            np.full(places, EMPTY, np.int32),
            np.zeros(size, np.uint64),
            np.zeros(size, np.int32),
            np.zeros((size, TOKEN_BYTES_MAX), np.uint8),
            np.zeros(size, np.int32),
            np.zeros(size, np.int64),
            np.arange(size - 1, -1, -1, dtype=np.int32),
            np.array([0, size]),
        )

    def __len__(self) -> int:
        return self.size - int(self._slots.counts[1])

    @property
    def free(self) -> int:
        """Rows not in use."""
        return int(self._slots.counts[1])

    def rows(self, tokens: Ragged, group: Int32s) -> tuple[Int32s, Int32s]:
        """The row of each token, int32 (n,), and the rows that are new, each once.

        Raises TableFull if there are fewer free rows than tokens, all of which might be new, and
        changes nothing then; `evict` first.
        """
        n = len(tokens)
        if n > self.free:
            raise TableFull
        found, new, tags = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.uint64)
        its = tokens.data, tokens.start, tokens.length
        count = _rows(self._slots, *its, group, tags, found, new)
        return found, new[:count]

    def tokens(self, rows: Int32s | Int64s) -> list[bytes]:
        """The token of each row."""
        data = self._slots.token[rows].tobytes()
        starts, lengths = range(0, len(data), TOKEN_BYTES_MAX), self._slots.length[rows].tolist()
        return [data[at : at + n] for at, n in zip(starts, lengths, strict=True)]

    def groups(self, rows: Int32s | Int64s) -> Int32s:
        """The group of each row, int32 (k,)."""
        return self._slots.group[rows]

    def in_use(self, group: int | None = None) -> Int64s:
        """The rows in use, of one group or of all."""
        used = self._slots.length > 0
        if group is not None:
            used &= self._slots.group == group
        return np.flatnonzero(used)

    def forget(self, rows: Any) -> None:
        """Free these rows."""
        if len(rows):
            slots, first = self._slots, int(self._slots.counts[1])
            slots.length[rows] = 0
            slots.free[first : first + len(rows)] = rows
            slots.counts[1] += len(rows)
            _index_anew(slots)

    def evict(self, may_go: Flags, wanted: int) -> Int64s:
        """Free at least `wanted` rows of those that may go, the longest unused; returns them.

        Raises TableFull if there are not so many.
        """
        slots = self._slots
        rows = np.flatnonzero((slots.length > 0) & may_go)
        if len(rows) < wanted:
            raise TableFull
        many = min(len(rows), max(wanted, self.size // SPARE_SHARE))
        oldest = np.argpartition(slots.used[rows], many - 1)[:many]
        gone = rows[oldest]
        self.forget(gone.astype(np.int32))
        return gone


@compiled
def _rows(
    slots: _Slots, data: Bytes, start: Int64s, length: Int32s, group: Int32s, tags: UInt64s,
    found: Int32s, new: Int32s,
) -> int:  # fmt: skip
    """Find or add every token; the number of new ones. There are as many free rows as tokens.

    `tags` uint64 (n,) is room for their hashes. Memory is fetched ahead, the index first.
    """
    slots.counts[0] += 1
    count, n = 0, len(found)
    mask = np.uint64(len(slots.places) - 1)
    for i in range(n):
        tags[i] = hash_bytes(data, start[i], length[i])
    for i in range(n):
        if i + 2 * AHEAD < n:
            ahead = i + 2 * AHEAD
            prefetch(slots.places, np.int64((tags[ahead] + np.uint64(group[ahead])) & mask))
        if i + AHEAD < n:
            ahead = i + AHEAD
            row = slots.places[np.int64((tags[ahead] + np.uint64(group[ahead])) & mask)]
            if row != EMPTY:
                prefetch(slots.tag, np.int64(row))
                prefetch(slots.length, np.int64(row))
                prefetch(slots.group, np.int64(row))
                prefetch(slots.used, np.int64(row))
                prefetch(slots.token, np.int64(row) * TOKEN_BYTES_MAX)
        tag = tags[i]
        place = _place(slots, tag, data, start[i], length[i], group[i])
        row = slots.places[place]
        if row == EMPTY:
            slots.counts[1] -= 1
            row = slots.free[slots.counts[1]]
            slots.places[place] = row
            slots.tag[row], slots.length[row], slots.group[row] = tag, length[i], group[i]
            for k in range(length[i]):
                slots.token[row, k] = data[start[i] + k]
            new[count] = row
            count += 1
        slots.used[row] = slots.counts[0]
        found[i] = row
    return count


@compiled
def _place(slots: _Slots, tag: np.uint64, data: Bytes, start: int, length: int, group: int) -> int:
    """Place in the index of the token's row, or of where it would go."""
    mask = np.uint64(len(slots.places) - 1)
    place = int((tag + np.uint64(group)) & mask)
    while True:
        row = slots.places[place]
        if row == EMPTY:
            return place
        if slots.tag[row] == tag and slots.length[row] == length and slots.group[row] == group:
            same = True
            for k in range(length):
                same &= slots.token[row, k] == data[start + k]
            if same:
                return place
        place = int(np.uint64(place + 1) & mask)


@compiled
def _index_anew(slots: _Slots) -> None:
    mask = np.uint64(len(slots.places) - 1)
    for place in range(len(slots.places)):
        slots.places[place] = EMPTY
    for row in range(len(slots.length)):
        if slots.length[row] > 0:
            place = int((slots.tag[row] + np.uint64(slots.group[row])) & mask)
            while slots.places[place] != EMPTY:
                place = int(np.uint64(place + 1) & mask)
            slots.places[place] = row
