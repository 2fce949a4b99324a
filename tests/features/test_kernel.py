"""The kernel against its plain twin, and the rules of event time: late, equal, first, bounded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import contract, kernel, remember, state
from features.contract import DAY_US, LIVE, NAMES, REPLAY, WIDTH, Timing
from features.offline import Log, replay, vectors
from features.plain import Plain
from features.state import Float32s

START_US = 17_622 * DAY_US


def _log(
    seed: int, n: int, *, days: float = 50.0, people: int = 3, places: int = 3, partitions: int = 1
) -> Log:
    rng = np.random.default_rng(seed)
    step = rng.choice([0, 1, 3_600_000_000], n, p=[0.05, 0.15, 0.8]).astype(np.int64)
    t = START_US + np.cumsum(step * rng.integers(0, int(days * 24 * 2 / n) + 2, n))
    customer = rng.integers(0, people, n).astype(np.int32)
    return Log.of(
        customer,
        rng.integers(0, places, n).astype(np.int32),
        t.astype(np.int64),
        rng.integers(0, 50_000, n),
        rng.choice([-1, 0, 1], n, p=[0.1, 0.4, 0.5]).astype(np.int8),
        (customer % partitions).astype(np.int32),
        REPLAY,
    )


def _shuffled(log: Log, seed: int, within_us: int) -> Log:
    """The same records, each late by less than `within_us`."""
    rng = np.random.default_rng(seed)
    order = np.argsort(log.event_time_us + rng.integers(0, max(within_us, 1), len(log)))
    return Log(*(getattr(log, name)[order] for name in log.__slots__))


def _plainly(log: Log, timing: Timing) -> Float32s:
    """The log's vectors by the twin; outcomes arrive as `replay` lets them arrive."""
    twin, rows, told = Plain(timing), [], 0
    labels = np.argsort(log.known_at_us, kind="stable")
    until = np.maximum.accumulate(log.event_time_us)[-1]
    for row in labels:
        if log.fraud[row] >= 0 and log.known_at_us[row] <= until:
            told += 1
            twin.label(
                int(log.terminal[row]), int(log.partition[row]), int(log.event_time_us[row]),
                int(log.known_at_us[row]), int(row), fraud=bool(log.fraud[row]),
            )  # fmt: skip
    for i in range(len(log)):
        found = twin.transaction(
            int(log.customer[i]), int(log.terminal[i]), int(log.partition[i]),
            int(log.event_time_us[i]), int(log.amount_minor[i]),
        )  # fmt: skip
        rows.append([found[name] for name in NAMES])
    return np.array(rows, np.float64).astype(np.float32)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_plain_twin_bit_for_bit(seed: int, partitions: int) -> None:
    """In order, with equal instants, several partitions, corrections and unknown outcomes."""
    log = _log(seed, 220, partitions=partitions)
    np.testing.assert_array_equal(vectors(log), _plainly(log, REPLAY))


@pytest.mark.parametrize("timing", [LIVE, REPLAY])
@pytest.mark.parametrize("seed", range(4))
def test_late_records_are_seen_late_in_the_same_way_by_both(seed: int, timing: Timing) -> None:
    """Shuffled far beyond the lateness."""
    log = _shuffled(_log(seed, 200), seed, 3 * DAY_US)
    np.testing.assert_array_equal(vectors(log, timing), _plainly(log, timing))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_shuffle_within_the_lateness_ends_in_the_same_state(seed: int) -> None:
    """Also where the bounds are reached and days go into tiles."""
    log = _log(seed, 900, people=2, places=2, days=250)
    late = _shuffled(log, seed + 1, REPLAY.lateness_us)
    assert not np.array_equal(late.event_time_us, log.event_time_us)
    _assert_same_rows(replay(log, REPLAY)[1], replay(late, REPLAY)[1])


def _assert_same_rows(one: state.State, other: state.State) -> None:
    for c in range(len(one.c_count)):
        for name in ("c_time", "c_amount"):
            rows = [
                getattr(s, name)[c, s.c_head[c] : s.c_head[c] + s.c_count[c]] for s in (one, other)
            ]
            np.testing.assert_array_equal(*rows)
        for name in ("c_tile_day", "c_tile_count", "c_tile_sum", "c_tile_seen"):
            np.testing.assert_array_equal(
                *(getattr(s, name)[c, : s.c_tiles[c]] for s in (one, other))
            )
    for r in range(len(one.s_count)):
        for name in ("s_time", "s_seen"):
            rows = [
                getattr(s, name)[r, s.s_head[r] : s.s_head[r] + s.s_count[r]] for s in (one, other)
            ]
            np.testing.assert_array_equal(*rows)
        for name in ("f_time", "f_seen", "f_sign"):
            np.testing.assert_array_equal(
                *(getattr(s, name)[r, : s.f_count[r]] for s in (one, other))
            )
        for name in ("s_tile_day", "s_tile_count", "s_tile_seen"):
            np.testing.assert_array_equal(
                *(getattr(s, name)[r, : s.s_tiles[r]] for s in (one, other))
            )
    np.testing.assert_array_equal(one.newest_us, other.newest_us)


def test_outcomes_told_long_ahead_push_nothing_out() -> None:
    """A year in few rows: far more is known by the log's end than a share keeps."""
    n = 1500
    t = START_US + np.arange(n) * (365 * DAY_US // n)
    who, where = np.arange(n, dtype=np.int32) % 7, np.arange(n, dtype=np.int32) % 50
    fraud = (np.arange(n) % 3 == 0).astype(np.int8)
    matrix = vectors(Log.of(who, where, t, np.full(n, 100), fraud))
    column = matrix[:, NAMES.index("terminal_risk_30d")]
    np.testing.assert_allclose(column[n // 2 :].mean(), 1 / 3, atol=0.03)


def test_numbers_in_the_kernel_are_those_of_the_contract() -> None:
    """They are repeated there because compiled loops do not notice a change elsewhere."""
    assert (kernel.DAY, kernel.DELAY) == (DAY_US, contract.LABEL_DELAY_DAYS * DAY_US)
    assert (kernel.LONGEST, kernel.MEDIAN_LAST) == (
        contract.LONGEST_DAYS * DAY_US, contract.MEDIAN_LAST,
    )  # fmt: skip
    assert (remember.CUSTOMER_EVENTS, remember.CUSTOMER_KEEP) == (
        state.CUSTOMER_EVENTS, state.CUSTOMER_KEEP_US,
    )  # fmt: skip
    assert (remember.SHARE_EVENTS, remember.SHARE_FRAUDS, remember.SHARE_KEEP) == (
        state.SHARE_EVENTS, state.SHARE_FRAUDS, state.SHARE_KEEP_US,
    )  # fmt: skip
    assert state.SCRATCH >= contract.MEDIAN_LAST
    assert kernel.NOWHERE == state.NEVER
    assert kernel.CUSTOMER_TILE == state.CUSTOMER_TILE_DAYS * DAY_US
    for name in ("DAY", "DELAY", "MEDIAN_LAST", "CUSTOMER_TILE", "SHARE_KEEP"):
        assert getattr(kernel, name) == getattr(remember, name)
    assert WIDTH == 26
    assert len(kernel.WINDOWS) == state.WINDOWS


def test_columns_have_their_places() -> None:
    """One transaction with a known history gives each name its own value."""
    log = _log(1, 120)
    last = dict(zip(NAMES, vectors(log)[-1].tolist(), strict=True))
    twin = dict(zip(NAMES, _plainly(log, REPLAY)[-1].tolist(), strict=True))
    assert last == twin
    assert len(set(last.values())) > 8


def test_the_first_transaction_of_all_gets_the_defaults() -> None:
    """Counts include the transaction itself; nothing else is known."""
    log = Log.of(*(np.zeros(1, np.int32),) * 2, np.array([START_US]), np.array([1234]),
                 np.zeros(1, np.int8))  # fmt: skip
    [vector] = vectors(log)
    wanted = contract.defaults()
    for name, value in (("amount", 12.34), ("night", 1), ("weekend", 0)):
        wanted[NAMES.index(name)] = value
    for days in (1, 7, 30):
        wanted[NAMES.index(f"customer_mean_{days}d")] = 12.34
    wanted[NAMES.index("weekend")] = vector[NAMES.index("weekend")]
    np.testing.assert_array_equal(vector, wanted)


def test_beyond_its_bound_a_row_counts_days_in_tiles() -> None:
    """A customer with more payments than are kept still has the count of its whole windows."""
    n = 3 * state.CUSTOMER_EVENTS
    t = START_US + np.arange(n) * (20 * DAY_US // n)
    one = np.zeros(n, np.int32)
    log = Log.of(one, one, t, np.full(n, 100), one.astype(np.int8))
    matrix, after = replay(log, REPLAY)
    assert after.c_count[0] == state.CUSTOMER_EVENTS
    assert after.c_tiles[0] > 0
    assert matrix[-1, NAMES.index("customer_count_30d")] == n
    day = n // 20
    assert abs(matrix[-1, NAMES.index("customer_count_1d")] - day) <= 1
    assert matrix[-1, NAMES.index("customer_mean_30d")] == 1.0
    at_terminal = matrix[-1, NAMES.index("terminal_count_30d")]
    assert abs(at_terminal - 13 * day) <= day  # whole days only


def test_rows_are_never_longer_than_their_bound_and_drop_what_no_window_reaches() -> None:
    """Over a year."""
    n = 4000
    t = START_US + np.arange(n) * (365 * DAY_US // n)
    one = np.zeros(n, np.int32)
    frauds = np.ones(n, np.int8)
    _, after = replay(Log.of(one, one, t, np.full(n, 100), frauds), REPLAY)
    assert after.c_count[0] <= state.CUSTOMER_EVENTS
    assert after.s_count[0] <= state.SHARE_EVENTS
    assert after.f_count[0] <= state.SHARE_FRAUDS
    assert after.c_tiles[0] <= state.CUSTOMER_TILES
    assert after.s_tiles[0] <= state.SHARE_TILES
    assert after.f_tiles[0] <= state.SHARE_TILES
    assert after.s_time[0, after.s_head[0]] > t[-1] - state.SHARE_KEEP_US - DAY_US


def test_an_outcome_taken_back_counts_no_more() -> None:
    """The later label of the same transaction wins, from when it is known."""
    twin = Plain(LIVE)
    room = state.State.empty(1, 1, 1, LIVE)
    zero, at = np.zeros(1, np.int32), np.array([START_US])
    out, provisional = np.empty((1, WIDTH), np.float32), np.empty(1, np.bool_)

    def pay(t: int) -> dict[str, float]:
        kernel.advance(
            room, zero, zero[:, np.newaxis], zero, np.array([t]), np.array([500]), out, provisional
        )
        found = twin.transaction(0, 0, 0, t, 500)
        assert out[0].tolist() == [np.float32(found[name]) for name in NAMES]
        return found

    def say(known_us: int, fraud: int) -> None:
        twin.label(0, 0, START_US, known_us, 7, fraud=bool(fraud))
        kernel.learn(
            room, zero, zero, at, np.array([known_us]), np.array([7]), np.array([fraud], np.int8)
        )

    pay(START_US)
    say(START_US + DAY_US, 1)
    say(START_US + 2 * DAY_US, 1)
    assert pay(START_US + 8 * DAY_US)["terminal_last_fraud"] == 1
    say(START_US + 9 * DAY_US, 0)
    assert pay(START_US + 10 * DAY_US)["terminal_last_fraud"] == 0
