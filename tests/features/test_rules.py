"""Two rules of the kernel over random logs: entities seen for the first time, and bounded memory.

The logs are those of the live state's tests. `test_kernel` compares vectors with the plain twin,
`test_blob` what is packed with the bytes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features import kernel
from features.blob import BLOB_BYTES_MAX, pack_customers, pack_shares
from features.contract import (
    DAY_US,
    FEATURES,
    LABEL_DELAY_DAYS,
    LIVE,
    NAMES,
    REPLAY,
    WIDTH,
    Timing,
    defaults,
)
from features.offline import Log, _learn, vectors
from features.state import NEVER, Float32s, Int64s, State
from tests.app.streams import START_US, random_log, shuffled
from tests.features.test_blob import _assert_within_bounds, _packed, _restored, _rows

DELAY_US = LABEL_DELAY_DAYS * DAY_US
DAYS_LATE = Timing(6 * DAY_US, DELAY_US)
"""Records may come days late and are still seen at their own time."""
CUSTOMER, TERMINAL = (
    np.array([feature.entity == entity for feature in FEATURES])
    for entity in ("customer", "terminal")
)

SEEDS = st.integers(0, 10_000)
TIMINGS = st.sampled_from([LIVE, REPLAY, DAYS_LATE])


@given(seed=SEEDS, partitions=st.sampled_from([1, 3]), timing=TIMINGS)
@settings(max_examples=80)
def test_an_entity_seen_for_the_first_time_has_the_defaults(
    seed: int, partitions: int, timing: Timing
) -> None:
    """Whatever others did, however late, and though outcomes are known at once."""
    log = random_log(seed, 250, partitions, timing, people=60, places=25)
    log = shuffled(replace(log, known_at_us=log.event_time_us), seed, 3 * DAY_US)
    matrix = vectors(log, timing)
    _, first = np.unique(log.customer, return_index=True)
    wanted = np.tile(defaults(), (len(first), 1))
    for days in (1, 7, 30):
        wanted[:, NAMES.index(f"customer_mean_{days}d")] = log.amount_minor[first] / 100
    np.testing.assert_array_equal(matrix[first][:, CUSTOMER], wanted[:, CUSTOMER])
    opened = np.full(log.terminal.max() + 1, 2 * START_US)
    np.minimum.at(opened, log.terminal, log.event_time_us)
    unseen = opened[log.terminal] > log.event_time_us - DELAY_US
    np.testing.assert_array_equal(
        matrix[unseen][:, TERMINAL], np.tile(defaults()[TERMINAL], (unseen.sum(), 1))
    )
    count = matrix[:, NAMES.index("terminal_count_30d")]
    assert 0 < (count > 0).sum() <= (~unseen).sum()


@given(seed=SEEDS, timing=TIMINGS)
@settings(max_examples=20)
def test_records_of_others_change_no_bit_of_an_entitys_features(seed: int, timing: Timing) -> None:
    """A log of its own records alone gives each customer and each terminal the same."""
    log = shuffled(random_log(seed, 240, 1, timing, 6, 6), seed + 1, timing.lateness_us)
    matrix = vectors(log, timing)
    for entity, columns in ((log.customer, CUSTOMER), (log.terminal, TERMINAL)):
        for one in np.unique(entity):
            own = entity == one
            alone = Log(*(getattr(log, name)[own] for name in log.__slots__))
            together = matrix[own][:, columns]
            assert vectors(alone, timing)[:, columns].tobytes() == together.tobytes()


def _crowd(seed: int, days: int, pause: int, instants: int, timing: Timing = REPLAY) -> Log:
    """Two customers, two terminals, more than rows hold, the last fifth after a pause of days.

    There are so many instants a day.
    """
    log = random_log(seed, 600, 1, timing, people=2, places=4, frauds=0.8)
    later_us = np.where(np.arange(len(log)) < len(log) * 4 // 5, 0, pause * DAY_US)
    t = START_US + (log.event_time_us - START_US) * days // 45 + later_us
    t -= t % (DAY_US // instants)
    return replace(log, event_time_us=t, known_at_us=log.known_at_us + t - log.event_time_us)


CROWDED = {
    "seed": SEEDS,
    "days": st.sampled_from([4, 20, 45]),
    "pause": st.sampled_from([0, 20, 167]),
    "instants": st.sampled_from([1, 24]),
}


def _room(log: Log, timing: Timing) -> State:
    room = State.empty(int(log.customer.max()) + 1, int(log.terminal.max()) + 1, 1, timing)
    room.owned[:] = True
    return room


def _pay(room: State, log: Log, rows: Int64s) -> Float32s:
    """The vectors of some rows of a log of one partition."""
    out, provisional = np.empty((len(rows), WIDTH), np.float32), np.empty(len(rows), np.bool_)
    kernel.advance(
        room, log.customer[rows], log.terminal[rows, np.newaxis], log.partition[rows],
        log.event_time_us[rows], log.amount_minor[rows], out, provisional,
    )  # fmt: skip
    return out


def _told(log: Log) -> Int64s:
    """Rows with an outcome, in the order in which these became known."""
    order = np.argsort(log.known_at_us, kind="stable")
    return order[log.fraud[order] >= 0]


def _arrivals(log: Log) -> Iterator[tuple[bool, Int64s]]:
    """Each record by itself, by its row: outcomes before the payments that may see them."""
    told, until_us = _told(log), np.maximum.accumulate(log.event_time_us)
    ends = np.searchsorted(log.known_at_us[told], until_us, "right")
    first = 0
    for row, end in enumerate(ends.tolist()):
        yield from ((True, told[at : at + 1]) for at in range(first, end))
        yield False, np.array([row])
        first = end


@given(**CROWDED)
@settings(max_examples=10)
def test_after_every_record_of_a_crowd_rows_and_blobs_are_bounded_and_say_all(
    seed: int, days: int, pause: int, instants: int
) -> None:
    """What comes back from the blobs gives the next vector bit for bit, and packs the same then."""
    log = shuffled(_crowd(seed, days, pause, instants), seed, DAY_US)
    room = _room(log, REPLAY)
    for is_outcome, row in _arrivals(log):
        if is_outcome:
            _learn(room, log, log.terminal[:, np.newaxis], row)
        else:
            other = _restored(room)
            assert _pay(room, log, row).tobytes() == _pay(other, log, row).tobytes()
            assert _packed(room) == _packed(other)
        _assert_within_bounds(room)
        assert max(len(each) for kind in _packed(room) for each in kind) <= BLOB_BYTES_MAX


@given(**CROWDED)
@settings(max_examples=25)
def test_windows_within_the_kept_events_are_exact(
    seed: int, days: int, pause: int, instants: int
) -> None:
    """However much was tiled, they are a count over the whole log."""
    log = shuffled(_crowd(seed, days, pause, instants), seed, DAY_US)
    room, shares = _room(log, REPLAY), log.terminal[:, np.newaxis]
    seen_us = np.maximum.accumulate(log.event_time_us) - REPLAY.lateness_us
    seen_us = np.maximum(log.event_time_us, seen_us)
    compared = 0
    for is_outcome, [row] in _arrivals(log):
        if is_outcome:
            _learn(room, log, shares, np.array([row]))
            continue
        c, r = log.customer[row], log.terminal[row]
        oldest = (
            int(room.c_time[c, room.c_head[c]]) if room.c_tiles[c] else NEVER,
            int(room.s_time[r, room.s_head[r]]) if room.s_tiles[r] else NEVER,
            int(room.f_time[r, 0]) if room.f_tiles[r] else NEVER,
        )
        found = dict(zip(NAMES, _pay(room, log, np.array([row]))[0], strict=True))
        wanted = _counted(log, seen_us, int(row), oldest)
        assert {name: found[name] for name in wanted} == wanted
        compared += len(wanted) * (max(oldest) > NEVER)
    assert compared > 0 or (days, pause) == (4, 0)


def _counted(
    log: Log, seen_us: Int64s, row: int, oldest: tuple[int, int, int]
) -> dict[str, np.float32]:
    """Features of a row by looking through the log, of windows within what rows have kept."""
    t, at, amount = log.event_time_us[row], log.event_time_us, log.amount_minor
    until, came = t - DELAY_US, np.arange(len(log)) < row
    payer = came & (log.customer == log.customer[row]) & (at <= t)
    place = (log.terminal == log.terminal[row]) & (at <= until)
    fraud = place & (log.fraud == 1) & (log.known_at_us <= t - REPLAY.skew_us)
    wanted = {}
    for days in (1, 7, 30):
        if oldest[0] <= t - days * DAY_US:
            own = amount[payer & (at > t - days * DAY_US)]
            n = len(own) + 1
            wanted[f"customer_count_{days}d"] = np.float32(n)
            wanted[f"customer_mean_{days}d"] = np.float32((own.sum() + amount[row]) / (100 * n))
        since = until - days * DAY_US
        if oldest[1] <= since:
            n = int((place & came & (seen_us <= until) & (at > since)).sum())
            wanted[f"terminal_count_{days}d"] = np.float32(n)
            if oldest[2] <= since:
                risk = (fraud & (at > since)).sum() / n if n else 0.0
                wanted[f"terminal_risk_{days}d"] = np.float32(risk)
    return wanted


def _jumbled(times_us: Int64s, rng: np.random.Generator) -> Int64s:
    """A random order within each stretch of time as long as a record may be late."""
    stretch = (times_us - START_US) // DAYS_LATE.lateness_us
    return np.lexsort((rng.random(len(times_us)), stretch))


@given(**CROWDED)
@settings(max_examples=60)
def test_packed_crowds_are_the_same_in_any_order(
    seed: int, days: int, pause: int, instants: int
) -> None:
    """A customer's payments in any at all, a share's records in any within the lateness."""
    log = _crowd(seed, days, pause, instants, DAYS_LATE)
    rng, told, n = np.random.default_rng(seed), _told(log), len(log)
    paid_late = _jumbled(log.event_time_us, rng)
    told_late = told[_jumbled(log.known_at_us[told], rng)]
    rooms = []
    for paid, learned in ((np.arange(n), told), (paid_late, told_late)):
        room = _room(log, DAYS_LATE)
        _learn(room, log, log.terminal[:, np.newaxis], learned)
        _pay(room, log, paid)
        rooms.append(pack_shares(room, _rows(len(room.s_count))))
        rooms.append(pack_customers(room, _rows(len(room.c_count))))
    assert rooms[:2] == rooms[2:]
    anyhow = _room(log, DAYS_LATE)
    _pay(anyhow, log, rng.permutation(n))
    assert pack_customers(anyhow, _rows(len(anyhow.c_count))) == rooms[1]
