"""Blobs of state: what is packed comes back to the bit, and no bytes lead the kernel astray."""

import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import xxhash

from app import decode_twin
from features import blob, blob_loops, kernel, state
from features.blob import pack_customers, pack_shares, unpack_customers, unpack_shares
from features.blob_plain import describe
from features.contract import DAY_US, LIVE, REPLAY, WIDTH
from features.offline import Log, replay
from features.state import Flags, Float32s, Int32s, State
from tests.features.test_kernel import START_US, _assert_same_rows, _log

HEADER = blob_loops.HEADER_BYTES


def _burst(seed: int, n: int = 900) -> Log:
    """Few customers and terminals with more than rows hold, most of it fraud or said to be."""
    rng = np.random.default_rng(seed)
    t = START_US + np.sort(rng.integers(0, 40 * DAY_US, n))
    return Log.of(
        rng.integers(0, 2, n).astype(np.int32),
        rng.integers(0, 2, n).astype(np.int32),
        t,
        rng.choice([0, 1, 50_000, 10**12], n),
        rng.choice([0, 1], n, p=[0.2, 0.8]).astype(np.int8),
        np.zeros(n, np.int32),
        REPLAY,
    )


LOGS = {
    "sparse": _log(1, 300, people=9, places=7),
    "partitions": _log(2, 900, people=3, places=2, days=250, partitions=3),
    "bursts": _burst(3),
    "one": _log(4, 1),
}


def _rows(n: int) -> Int32s:
    return np.arange(n, dtype=np.int32)


def _packed(of: State) -> tuple[list[bytes], list[bytes]]:
    return (
        pack_customers(of, _rows(len(of.c_count))),
        pack_shares(of, _rows(len(of.s_count))),
    )


def _restored(of: State) -> State:
    """A new state of the same rows, by their blobs; the logs' positions are copied."""
    customers, shares = _packed(of)
    fresh = State.empty(len(customers), len(shares), len(of.owned), REPLAY)
    assert unpack_customers(fresh, _rows(len(customers)), customers) == 0
    assert unpack_shares(fresh, _rows(len(shares)), shares) == 0
    for name in ("newest_us", "quiet_us", "held_us", "owned", "timing"):
        getattr(fresh, name)[...] = getattr(of, name)
    return fresh


def _play(room: State, log: Log) -> tuple[Float32s, Flags]:
    """Outcomes of all, then the vectors of all, each log from where the state is."""
    n, partitions = len(log), len(room.owned)
    shares = log.terminal[:, np.newaxis] * partitions + _rows(partitions)
    out, provisional = np.empty((n, WIDTH), np.float32), np.empty(n, np.bool_)
    kernel.learn(
        room, np.ascontiguousarray(shares[_rows(n), log.partition]), log.partition,
        log.event_time_us, log.known_at_us, np.arange(n), log.fraud,
    )  # fmt: skip
    kernel.advance(
        room, log.customer, np.ascontiguousarray(shares, np.int32), log.partition,
        log.event_time_us, log.amount_minor, out, provisional,
    )  # fmt: skip
    return out, provisional


@pytest.mark.parametrize("name", LOGS)
def test_what_is_packed_comes_back(name: str) -> None:
    """Rows, tiles and frauds are the same, and pack to the same bytes again."""
    _, before = replay(LOGS[name], REPLAY)
    after = _restored(before)
    before.newest_us[...] = after.newest_us
    _assert_same_rows(before, after)
    for r, n in enumerate(before.f_count.tolist()):
        assert before.f_tag[r, :n].tolist() == after.f_tag[r, :n].tolist()
    assert _packed(before) == _packed(after)


def test_the_logs_reach_every_part_of_the_format() -> None:
    """Else the test above proves little: tiles of all three kinds, both signs, a head beyond 0."""
    found = [replay(log, REPLAY)[1] for log in LOGS.values()]
    for name in ("c_tiles", "s_tiles", "f_tiles", "c_head", "s_head"):
        assert max(getattr(each, name).max() for each in found) > 0, name
    back = State.empty(1, 1, 1, LIVE)
    zero, at = np.zeros(1, np.int32), np.array([START_US])
    for fraud in (1, 0):
        kernel.learn(back, zero, zero, at, at + fraud, at * 0 + 2**32 - 1, np.array([fraud], "i1"))
    restored = _restored(back)
    assert restored.f_sign[0, :2].tolist() == back.f_sign[0, :2].tolist() == [1, -1]
    assert restored.f_tag[0, 0] == 2**32 - 1


@pytest.mark.parametrize("name", LOGS)
def test_vectors_go_on_bit_for_bit(name: str) -> None:
    """After a restart the kernel computes what it would have computed without one."""
    log = LOGS[name]
    _, before = replay(log, REPLAY)
    after = _restored(before)
    last = int(log.event_time_us.max())
    later = Log(
        log.customer, log.terminal,
        last + log.event_time_us - log.event_time_us[0], log.amount_minor, log.partition,
        np.maximum(log.fraud, 0), last + log.known_at_us - log.event_time_us[0],
    )  # fmt: skip
    one, other = _play(before, later), _play(after, later)
    assert one[0].tobytes() == other[0].tobytes()
    assert one[1].tolist() == other[1].tolist()
    assert _packed(before) == _packed(after)


def _iso(time_us: Any) -> str:
    return f"{np.datetime64(int(time_us), 'us')}Z"


@pytest.mark.parametrize("name", LOGS)
def test_described_is_what_the_state_holds(name: str) -> None:
    """The plain reader finds each event, tile and fraud of the arrays in the bytes."""
    _, s = replay(LOGS[name], REPLAY)
    customers, shares = _packed(s)
    for c, each in enumerate(map(describe, customers)):
        own = range(s.c_head[c], s.c_head[c] + s.c_count[c])
        assert each["events"] == [
            {"time": _iso(s.c_time[c, k]), "amount_minor": s.c_amount[c, k]} for k in own
        ]
        assert each["tiles"] == [
            {"from": _iso(int(s.c_tile_day[c, j]) * 3 * DAY_US), "days": 3,
             "count": s.c_tile_count[c, j], "seen": _iso(s.c_tile_seen[c, j]),
             "sum_minor": s.c_tile_sum[c, j]}
            for j in range(s.c_tiles[c])
        ]  # fmt: skip
    for r, each in enumerate(map(describe, shares)):
        own = range(s.s_head[r], s.s_head[r] + s.s_count[r])
        assert each["events"] == [
            {"time": _iso(s.s_time[r, k]), "seen": _iso(s.s_seen[r, k])} for k in own
        ]
        assert each["frauds"] == [
            {"time": _iso(s.f_time[r, k]), "seen": _iso(s.f_seen[r, k]), "tag": s.f_tag[r, k],
             "sign": s.f_sign[r, k]}
            for k in range(s.f_count[r])
        ]  # fmt: skip
        for kind, n in (("tiles", s.s_tiles[r]), ("fraud_tiles", s.f_tiles[r])):
            days, counts, seens = (
                getattr(s, f"{'s' if kind == 'tiles' else 'f'}_tile_{column}")[r, :n]
                for column in ("day", "count", "seen")
            )
            assert each[kind] == [
                {"from": _iso(day * DAY_US), "days": 1, "count": count, "seen": _iso(seen)}
                for day, count, seen in zip(days.tolist(), counts, seens, strict=True)
            ]


def test_full_rows_of_the_largest_numbers_fit() -> None:
    """The largest customer and share that a kernel can make stay within the limit, and are exact.

    The bytes that the constants promise are those of as many tiles as the arrays have room for.
    """
    s = State.empty(1, 1, 1, REPLAY)
    newest = START_US + 2 * DAY_US
    n, tiles = state.CUSTOMER_EVENTS, state.CUSTOMER_KEEP_US // (3 * DAY_US) + 1
    s.c_count[0], s.c_tiles[0] = n, tiles
    s.c_time[0, :n], s.c_amount[0, :n] = newest, 10**12
    s.c_tile_day[0, :tiles] = newest // (3 * DAY_US) - np.arange(tiles)[::-1]
    s.c_tile_count[0, :tiles], s.c_tile_sum[0, :tiles] = 2**31 - 1, 2**63 - 1
    s.c_tile_seen[0, :tiles] = (s.c_tile_day[0, :tiles].astype(np.int64) + 1) * 3 * DAY_US - 1
    n, frauds, days = state.SHARE_EVENTS, state.SHARE_FRAUDS, state.SHARE_KEEP_US // DAY_US + 1
    s.s_count[0], s.s_tiles[0], s.f_count[0], s.f_tiles[0] = n, days, frauds, days
    s.s_time[0, :n] = newest - state.SHARE_KEEP_US + np.arange(n)
    s.s_time[0, n - 1] = newest
    s.s_seen[0, :n] = s.s_time[0, :n] + 2**56 - 1
    s.f_time[0, :frauds], s.f_seen[0, :frauds] = newest, newest + 2**56 - 1
    s.f_tag[0, :frauds], s.f_sign[0, :frauds] = 2**32 - 1, -1
    for kind, count in (("s", 2**31 - 1), ("f", -(2**31))):
        own = getattr(s, f"{kind}_tile_day")[0]
        own[:days] = newest // DAY_US - np.arange(days)[::-1]
        getattr(s, f"{kind}_tile_count")[0, :days] = count
        getattr(s, f"{kind}_tile_seen")[0, :days] = own[:days].astype(np.int64) * DAY_US + 2**56 - 1
    _assert_same_rows(s, _restored(s))
    [customer], [share] = _packed(s)
    unused = state.CUSTOMER_TILES - tiles, 2 * (state.SHARE_TILES - days)
    assert len(customer) + unused[0] * blob_loops.CUSTOMER_TILE == blob.CUSTOMER_BYTES_MAX <= 4096
    assert len(share) + unused[1] * blob_loops.SHARE_TILE == blob.SHARE_BYTES_MAX <= 4096


def test_what_can_never_be_seen_and_what_was_known_before_count_as_they_did() -> None:
    """A time beyond the format's reach is stored as the latest, one before its event as then."""
    s = State.empty(1, 1, 1, REPLAY)
    s.f_count[0] = s.s_count[0] = 2
    s.f_time[0, :2] = s.s_time[0, :2] = START_US, START_US + 1
    s.f_seen[0, :2], s.s_seen[0, :2] = (START_US - 5, state.ALWAYS), (START_US, state.ALWAYS)
    s.f_sign[0, :2] = 1
    after = _restored(s)
    assert after.f_seen[0, :2].tolist() == [START_US, START_US + 2**56]
    assert after.s_seen[0, :2].tolist() == [START_US, START_US + 2**56]


def _sealed(head: bytes, payload: bytes) -> bytes:
    return head + struct.pack("<Q", xxhash.xxh64_intdigest(payload)) + payload


def _samples() -> tuple[list[bytes], list[bytes]]:
    found = [_packed(replay(log, REPLAY)[1]) for log in LOGS.values()]
    return [each for c, _ in found for each in c], [each for _, s in found for each in s]


CUSTOMERS, SHARES = _samples()


def _unpack(kind: str, room: State, rows: Int32s, blobs: Sequence[bytes | None]) -> int:
    return {"c": unpack_customers, "s": unpack_shares}[kind](room, rows, blobs)


@pytest.mark.parametrize(
    ("kind", "good", "other"), [("c", CUSTOMERS, SHARES), ("s", SHARES, CUSTOMERS)]
)
def test_a_damaged_or_foreign_blob_makes_its_row_empty(
    kind: str, good: list[bytes], other: list[bytes]
) -> None:
    """Each is counted; a missing one is not; rows beside it are as they should be."""
    whole = max(good, key=len)
    bad: list[bytes | None] = [
        b"", b"RW", whole[:HEADER], whole[:-1], whole + b"\0", bytes(10**6), other[0],
        b"RWC1" + whole[4:], whole[:4] + b"\0\0\0\0" + whole[8:],
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 7)),
    ]  # fmt: skip
    for each in bad:
        room = State.empty(3, 3, 1, REPLAY)
        rows = _rows(3)
        assert _unpack(kind, room, rows, [whole, whole, whole]) == 0
        assert _unpack(kind, room, rows, [whole, each, None]) == 1
        customers, shares = _packed(room)
        empty = _packed(State.empty(3, 3, 1, REPLAY))
        packed, nothing = (customers, empty[0]) if kind == "c" else (shares, empty[1])
        assert packed == [whole, *nothing[1:]]
        with pytest.raises(ValueError):  # noqa: PT011 -- any fault
            describe(each or b"") if each is not other[0] else describe(b"")


NEVER_SO: dict[str, tuple[str, int, int]] = {
    "a customer's time before the one before": ("c_time", 9, START_US),
    "a customer's amounts of an instant out of order": ("c_amount", 8, 1),
    "a time beyond all": ("c_time", 0, blob_loops.TIME_US_MAX + 1),
    "a customer's tile beyond its newest event": ("c_tile_day", 2, 5900),
    "a customer's tile twice": ("c_tile_day", 1, 5874),
    "a customer's tile of too long ago": ("c_tile_day", 0, 5810),
    "a customer's tile of nothing": ("c_tile_count", 0, 0),
    "a negative sum": ("c_tile_sum", 1, -1),
    "a customer's tiles without events": ("c_count", -1, 0),
    "a share's time before the one before": ("s_time", 9, START_US),
    "a share's sight of an instant out of order": ("s_seen", 9, START_US),
    "a share's tile beyond its newest event": ("s_tile_day", 2, 17_700),
    "a share's tile twice": ("s_tile_day", 2, 17_623),
    "a share's tile of too long ago": ("s_tile_day", 0, 17_560),
    "a share's tile of nothing": ("s_tile_count", 0, 0),
    "a share's tiles without events": ("s_count", -1, 0),
    "a fraud's time before the one before": ("f_time", 9, START_US),
    "frauds of an instant out of order": ("f_tag", 9, 0),
    "a sign that is none": ("f_sign", 0, 0),
    "a fraud tile beyond the newest fraud": ("f_tile_day", 2, 17_700),
    "fraud tiles without frauds": ("f_count", -1, 0),
}


@pytest.mark.parametrize("name", NEVER_SO)
def test_content_against_a_rows_rules_is_damage(name: str) -> None:
    """Also under a right checksum: the kernel counts on the rules. The row is empty then."""
    column, at, number = NEVER_SO[name]
    room = State.empty(1, 1, 1, REPLAY)
    room.c_count[0] = room.s_count[0] = room.f_count[0] = 20
    room.c_tiles[0] = room.s_tiles[0] = room.f_tiles[0] = 3
    for times in (room.c_time, room.s_time, room.s_seen, room.f_time, room.f_seen):
        times[0, :20] = START_US + np.arange(20) // 2 * 2 * DAY_US  # two of each instant
    room.s_seen[0, 8], room.f_tag[0, :20], room.f_sign[0, :20] = START_US + 9 * DAY_US, 1, 1
    room.s_seen[0, 9] = START_US + 9 * DAY_US
    room.c_tile_day[0, :3] = 5874 + np.arange(3)
    room.s_tile_day[0, :3] = room.f_tile_day[0, :3] = 17_622 + np.arange(3)
    room.c_tile_count[0, :3] = room.s_tile_count[0, :3] = 1
    assert _packed(_restored(room)) == _packed(room)
    getattr(room, column)[(0,) if at < 0 else (0, at)] = number
    kind = "c" if column.startswith("c") else "s"
    [packed] = _packed(room)["cs".index(kind)]
    after = State.empty(1, 1, 1, REPLAY)
    assert _unpack(kind, after, _rows(1), [packed]) == 1
    assert _packed(after) == _packed(State.empty(1, 1, 1, REPLAY))
    with pytest.raises(ValueError):  # noqa: PT011 -- any fault
        describe(packed)


def test_rows_and_blobs_must_pair() -> None:
    """A fault of the caller is raised, as no stored bytes are."""
    with pytest.raises(ValueError, match="2 blobs for 1 rows"):
        unpack_customers(State.empty(1, 1, 1, LIVE), _rows(1), [None, None])
    with pytest.raises(ValueError, match="0 blobs for 1 rows"):
        unpack_shares(State.empty(1, 1, 1, LIVE), _rows(1), [])
    assert unpack_shares(State.empty(1, 1, 1, LIVE), _rows(0), []) == 0


def _mutants(good: list[bytes], head: bytes, choose: random.Random) -> Iterator[bytes]:
    """Blobs with altered payloads, most of them under a right checksum: the checks must hold."""
    extremes = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff")
    while True:
        payload = bytearray(choose.choice(good)[HEADER:])
        fixed = 16 if head == blob.CUSTOMER_HEAD else 32
        for _ in range(choose.randrange(1, 4)):
            near = choose.random() < 0.5
            at = choose.randrange(min(fixed, len(payload)) if near else len(payload))
            match choose.randrange(5):
                case 0:
                    payload[at] ^= 1 << choose.randrange(8)
                case 1:
                    size = choose.randrange(1, 9)
                    payload[at : at + size] = choose.choice(extremes) * size
                case 2:
                    payload[at] = (payload[at] + choose.choice((-1, 1))) % 256
                case 3:
                    del payload[len(payload) - choose.randrange(40) :]
                case _:
                    payload += choose.randbytes(choose.choice((11, 13, 18, 19)))
            payload = payload or bytearray(1)
        yield _sealed(head, bytes(payload))


@pytest.mark.parametrize("kind", ["c", "s"])
def test_no_bytes_raise_or_break_the_kernel(kind: str) -> None:
    """Of 20,000 mutants each is read or damaged as the plain reader says, and the kernel goes on.

    Rows are apart by an empty one: what is written beyond a row's end would show in it.
    """
    good, head = (CUSTOMERS, blob.CUSTOMER_HEAD) if kind == "c" else (SHARES, blob.SHARE_HEAD)
    source, read = _mutants(good, head, random.Random(11)), 0  # noqa: S311 -- repeatable
    rows = np.arange(0, 1000, 2, dtype=np.int32)
    for round_ in range(20):
        blobs = [next(source) for _ in rows]
        room = State.empty(1001, 1001, 1, REPLAY)
        damaged = _unpack(kind, room, rows, blobs)
        refused = [each for each in blobs if not _is_described(each)]
        assert damaged == len(refused)
        read += len(rows) - damaged
        for step in range(3):
            newest = np.maximum(room.c_time[rows].max(axis=1), room.s_time[rows].max(axis=1))
            at = np.clip(newest, START_US, 9 * 10**18) + (round_ + step) * 2 * DAY_US
            log = Log.of(rows, rows, at, rows.astype(np.int64), np.ones(len(rows), np.int8))
            _play(room, log)
        _assert_within_bounds(room)
        for column in room[:27]:
            assert not column[1::2].any()
    assert 2_000 < read < 18_000


def _is_described(each: bytes) -> bool:
    try:
        describe(each)
    except ValueError:
        return False
    return True


def _assert_within_bounds(room: State) -> None:
    assert room.c_count.max() <= state.CUSTOMER_EVENTS
    assert (room.c_head + room.c_count).max() <= state.CUSTOMER_ROW
    assert room.c_tiles.max() <= state.CUSTOMER_TILES
    assert room.s_count.max() <= state.SHARE_EVENTS
    assert (room.s_head + room.s_count).max() <= state.SHARE_ROW
    assert room.f_count.max() <= state.SHARE_FRAUDS
    assert max(room.s_tiles.max(), room.f_tiles.max()) <= state.SHARE_TILES


def test_keys_say_partition_contract_and_entity() -> None:
    """Keys of a partition share its hash tag, so that a cluster keeps them together."""
    assert blob.customer_key("0a1b", 3, b"k\xff") == b"rw:{p3}:0a1b:c:k\xff"
    assert blob.share_key("0a1b", 12, b"m1") == b"rw:{p12}:0a1b:t:m1"
    assert blob.meta_key("0a1b", 0) == b"rw:{p0}:0a1b:meta"


def test_numbers_in_the_loops_cover_what_decodes() -> None:
    """Every accepted record's time and amount fits; the heads tell the kinds apart."""
    latest_us = 1000 * decode_twin.APPEND_TIME_MS_MAX + decode_twin.FUTURE_US_MAX
    assert latest_us <= blob_loops.TIME_US_MAX
    assert blob_loops.TIME_US_MAX + 2**48 + blob_loops.SEEN_US_MAX < 2**63
    assert decode_twin.AMOUNT_MINOR_MAX < 2**40
    assert blob_loops.DAY == DAY_US
    assert max(state.CUSTOMER_KEEP_US, state.SHARE_KEEP_US) + 4 * DAY_US < 2**48
    assert state.CUSTOMER_TILE_DAYS * DAY_US < 2**40
    assert [blob.CUSTOMER_HEAD[:4], blob.SHARE_HEAD[:4]] == [b"RWC2", b"RWS2"]
