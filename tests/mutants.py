"""Damaged values by the million, the same ones for the same seed.

`python -m tests.mutants 50000000 --seed 7` lets both decoders judge as many as one likes: the
compiled one all of them, its twin a sample. Values of several writers are damaged by a Numba loop:
bits flipped, bytes set to extremes, put in, cut out, doubled, ends cut off, two values joined.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from app import decode, decode_twin
from app.decode_twin import COLUMNS, Decoded
from app.records import Int64s, Ragged, RecordBatch
from app.writers import Writers
from tests.strategies import (
    DEEP,
    DEEP_ONE,
    LIMITS,
    NOW_US,
    confluent,
    encode_bytes,
    encode_long,
    enum,
    fields_of,
    pieces,
    single_object,
    variant,
)

BATCH = 50_000
KEY = b"customer-1"
_BLOCKS = encode_long(-2) + encode_long(4) + b"\2a\2b" + encode_long(1) + b"\2c\0"
WRITERS: dict[int, tuple[str, bytes]] = {
    1: (variant(), pieces()),
    2: (variant(a="boolean", b="int", c="double"), pieces() + b"\1" + encode_long(-7) + bytes(8)),
    3: (variant(extra={"type": "array", "items": "string"}), pieces() + _BLOCKS),
    4: (
        variant(extra={"type": "map", "values": ["null", "long", "bytes"]}),
        pieces() + encode_long(2) + b"\2k\0" + b"\2l\4" + encode_bytes(b"\xff") + b"\0",
    ),
    5: (DEEP, pieces() + DEEP_ONE),
    6: (variant(channel=None, country=None), pieces(channel=b"", country=b"")),
    7: (
        variant(channel=["null", enum("CHIP", "IMPLANT")], currency=["string", "null"]),
        pieces(channel=b"\2\2", currency=b"\0" + encode_bytes(b"EUR")),
    ),
    8: (
        variant(amount_minor="int", customer_id="bytes", event_time=["int", "long"]),
        pieces(event_time=b"\2" + encode_long(NOW_US - 5)),
    ),
    9: (
        variant(
            extra={"type": "record", "name": "Inner", "fields": [
                {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
                {"name": "digest", "type": {"type": "fixed", "name": "Digest", "size": 16}},
            ]}
        ),
        pieces() + b"\2" + bytes(16),
    ),
}  # fmt: skip
"""Texts of evolved writers by registry id, and a value of each."""

WHOLE = [single_object(pieces()), *(confluent(body, key) for key, (_, body) in WRITERS.items())]
HEADS = [10] + [5] * len(WRITERS)
_GROWS = 64
_EXTREMES = np.frombuffer(b"\0\1\2\x7f\x80\x81\xfe\xff", np.uint8)


def known() -> Writers:
    """All writers that the values are of."""
    writers = Writers()
    for key, (text, _) in WRITERS.items():
        writers.add_id(key, text)
    return writers


def mutants(seed: int, count: int) -> RecordBatch:
    """So many records of damaged values, in one batch; most under their customer's key."""
    whole, heads = Ragged.of(WHOLE), np.array(HEADS, np.int64)
    room = 2 * max(map(len, WHOLE)) + _GROWS
    data, length = np.zeros(count * room, np.uint8), np.empty(count, np.int32)
    _damage(np.uint64(seed), whole.data, whole.start, whole.length, heads, room, data, length)
    data.flags.writeable = False
    values = Ragged(data, np.arange(count, dtype=np.int64) * room, length)
    keys = Ragged.of([KEY, KEY[:-1]])
    which = (np.arange(count) % 50 == 49).astype(np.int64)
    nothing = Ragged.of([b""]).take(np.zeros(count, np.int64))
    return RecordBatch(
        "transactions", np.zeros(count, np.int32), np.arange(count),
        np.full(count, NOW_US // 1000), np.full(count, 2, np.int8),
        keys.take(which), values, nothing, NOW_US,
    )  # fmt: skip


@nb.njit(nogil=True, cache=True)
def _next(state: Any, below: Any) -> Any:
    """Splitmix64: a number below that one."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) % np.uint64(max(below, 1)))


@nb.njit(nogil=True, cache=True)
def _damage(
    seed: Any, whole: Any, start: Any, size: Any, heads: Any, room: Any, data: Any, length: Any
) -> None:
    """Write one damaged value every `room` bytes; in half of them the header is left whole."""
    state = np.array([seed], np.uint64)
    for i in range(len(length)):
        k = _next(state, len(size))
        at, n = i * room, np.int64(size[k])
        data[at : at + n] = whole[start[k] : start[k] + n]
        kept = heads[k] * _next(state, 2)
        for _ in range(1 + _next(state, 3)):
            other = _next(state, len(size))
            n = _mutate(
                state, data[at : at + room], n, kept,
                whole[start[other] : start[other] + size[other]],
            )  # fmt: skip
        length[i] = n


@nb.njit(nogil=True, cache=True)
def _mutate(state: Any, value: Any, n: Any, kept: Any, other: Any) -> Any:
    """Damage a value of n bytes behind the first `kept`; how long it is then."""
    if n <= kept:
        return n
    at, way, few = kept + _next(state, n - kept), _next(state, 8), 1 + _next(state, 6)
    if way <= 1:
        value[at] ^= np.uint8(1 << _next(state, 8))
    elif way == 2:
        value[at] = _EXTREMES[_next(state, len(_EXTREMES))]
    elif way == 3:
        value[at : min(at + few, n)] = _EXTREMES[_next(state, len(_EXTREMES))]
    elif way == 4 and n + few <= len(value):
        for j in range(n - 1, at - 1, -1):
            value[j + few] = value[j]
        for j in range(few):  # the same bytes again, or others
            value[at + j] = value[at + j + few] if few & 1 else np.uint8(_next(state, 256))
        n += few
    elif way == 5:
        few = min(few, n - at)
        for j in range(at, n - few):
            value[j] = value[j + few]
        n -= few
    elif way == 6:
        n = at
    elif way == 7:
        first = _next(state, len(other))
        more = min(len(other) - first, len(value) - at)
        value[at : at + more] = other[first : first + more]
        n = at + more
    return n


class Tally(NamedTuple):
    """What became of the mutants."""

    judged: int
    accepted: int
    compared: int
    codes: Counter[str]


def judge(count: int, seed: int, compare: int) -> Tally:
    """Decode `count` mutants, `compare` of them by the twin too; AssertionError on a fault."""
    codes: Counter[str] = Counter()
    accepted = compared = judged = 0
    while judged < count:
        writers = known()
        n = min(BATCH, count - judged)
        records = mutants(seed + judged, n)
        result = decoded(decode.decode, records, writers)
        rejected = np.array([each.row for each in result.rejects], np.int64)
        rows = np.sort(np.concatenate([result.transactions.row, rejected]))
        assert np.array_equal(rows, np.arange(n)), "a record was not counted out"
        codes.update(each.code for each in result.rejects)
        judged, accepted = judged + n, accepted + len(result.transactions)
        wanted = max(0, round(compare * judged / count) - compared)
        compared += agree(result, records, np.linspace(0, n - 1, wanted).astype(np.int64), writers)
    return Tally(judged, accepted, compared, codes)


def decoded(decode_: Callable[..., Decoded], records: RecordBatch, writers: Writers) -> Decoded:
    """Decode; ids that damage made up are marked unknown first, as a registry would answer."""
    while unresolved := (result := decode_(records, writers, LIMITS)).unresolved:
        for schema_id in unresolved:
            writers.mark_unknown(schema_id)
    return result


def agree(ours: Decoded, records: RecordBatch, rows: Int64s, writers: Writers) -> int:
    """Compare with the twin on these rows: verdicts of meaning, and every column; how many."""
    theirs = decoded(decode_twin.decode, records.take(rows), writers)
    verdicts = {each.row: each for each in ours.rejects}
    for each in theirs.rejects:
        mine = verdicts.get(int(rows[each.row]))
        assert mine is not None, f"row {rows[each.row]}: only the twin rejects it: {each.code}"
        assert mine.stage == each.stage, (mine, each)
        assert mine.stage == "decode" or mine.code == each.code, (mine, each)
    taken = rows[theirs.transactions.row]
    at = np.searchsorted(ours.transactions.row, taken)
    mine_too = ours.transactions.take(np.minimum(at, len(ours.transactions) - 1))
    assert mine_too.row.tolist() == taken.tolist(), "only the twin accepts a row"
    assert fields_of(mine_too) == fields_of(theirs.transactions)
    for name in set(COLUMNS) - {"row", "text_start"}:
        assert np.array_equal(getattr(mine_too, name), getattr(theirs.transactions, name)), name
    return len(rows)


def main() -> None:
    """Judge as many as the command line says, and say what became of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compare", type=int, default=0, help="by the twin; 0: one in twenty")
    wanted = parser.parse_args()
    began_s = time.monotonic()
    tally = judge(wanted.count, wanted.seed, wanted.compare or wanted.count // 20)
    sys.stdout.write(
        f"seed {wanted.seed}: {tally.judged:,} mutants in {time.monotonic() - began_s:.0f} s,"
        f" {tally.accepted:,} accepted, {tally.compared:,} compared, no fault\n"
        + "".join(f"  {code:18} {n:>12,}\n" for code, n in tally.codes.most_common())
    )


if __name__ == "__main__":
    main()
