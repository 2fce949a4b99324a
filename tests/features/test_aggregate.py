"""Profiles from history: right, and never wiser than the instant that they stand for."""

import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.aggregate import (
    DAY_US,
    FRAUD_RATE_STRENGTH,
    RECENT_DAYS,
    History,
    aggregate,
    number,
)
from features.contract import CHANNELS
from features.profile import CUSTOMER_PROFILE, FRAUD_RATE_PRIOR, TERMINAL_PROFILE, Layout
from features.vectorize import COS, SIN, country_code

AS_OF_US = 20_100 * DAY_US + 5 * DAY_US // 7
WINDOW_DAYS, DELAY_DAYS = 10, 2
HOUR_US = DAY_US // 24

COUNTRY = st.sampled_from([0, country_code("DE"), country_code("FR")])
Payment = tuple[int, int, int, int, int, int, int]
PAYMENTS: st.SearchStrategy[list[Payment]] = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(AS_OF_US - 12 * DAY_US, AS_OF_US + DAY_US),
        st.integers(0, 10**12),
        st.integers(0, len(CHANNELS) - 1),
        COUNTRY,
        st.integers(-1, 1),
    ),
    max_size=30,
)


def history_of(payments: list[Payment]) -> History:
    """A history of three customers and three terminals."""
    columns = np.array(payments, np.int64).reshape(-1, 7).T
    types = (np.int32, np.int32, np.int64, np.int64, np.int8, np.int32, np.int8)
    tokens = [b"a", b"b", b"c"]
    customer, *others = (c.astype(t) for c, t in zip(columns, types, strict=True))
    return History(tokens, tokens, customer, *others)


@given(PAYMENTS)
def test_profiles_say_what_happened(payments: list[Payment]) -> None:
    """Every column equals its definition computed one payment at a time."""
    found = aggregate(history_of(payments), AS_OF_US, WINDOW_DAYS, DELAY_DAYS)
    seen = [p for p in payments if AS_OF_US - WINDOW_DAYS * DAY_US <= p[2] < AS_OF_US]
    for entity in range(3):
        of_customer = customer_row([p for p in seen if p[0] == entity])
        of_terminal = terminal_row([p for p in seen if p[1] == entity])
        check(CUSTOMER_PROFILE, found.customers[entity], of_customer)
        check(TERMINAL_PROFILE, found.terminals[entity], of_terminal)


@given(PAYMENTS, PAYMENTS)
def test_what_was_not_known_leaves_no_trace(past: list[Payment], later: list[Payment]) -> None:
    """Payments at or after the instant, and labels within the delay, change no bit."""
    past = [p for p in past if p[2] < AS_OF_US]
    before = aggregate(history_of(past), AS_OF_US, WINDOW_DAYS, DELAY_DAYS)
    future = [(*p[:2], AS_OF_US + k * HOUR_US, *p[3:]) for k, p in enumerate(later)]
    wiser = history_of(past + future)
    fresh = wiser.event_time_us >= AS_OF_US - DELAY_DAYS * DAY_US
    wiser = replace(wiser, fraud=np.where(fresh, 1, wiser.fraud).astype(np.int8))
    after = aggregate(wiser, AS_OF_US, WINDOW_DAYS, DELAY_DAYS)
    assert before.customers.tobytes() == after.customers.tobytes()
    assert before.terminals.tobytes() == after.terminals.tobytes()


def test_a_label_counts_once_its_delay_is_over() -> None:
    """A fraud raises its terminal's rates after the delay; the recent one forgets it first."""
    payment = (0, 0, AS_OF_US - 3 * DAY_US, 500, 1, 0, 1)
    raised = (1 + FRAUD_RATE_PRIOR * FRAUD_RATE_STRENGTH) / (1 + FRAUD_RATE_STRENGTH)
    rates = [
        aggregate(history_of([payment]), AS_OF_US + days * DAY_US, 28, 7).terminals[0, -2:].tolist()
        for days in (3, 5, 5 + RECENT_DAYS)
    ]
    assert rates == [
        pytest.approx([FRAUD_RATE_PRIOR, FRAUD_RATE_PRIOR]),
        pytest.approx([raised, raised]),
        pytest.approx([raised, FRAUD_RATE_PRIOR]),
    ]


def test_the_lowest_of_equally_frequent_countries_is_home() -> None:
    """A tie is decided by the code and not by the order of payments."""
    de, fr = country_code("DE"), country_code("FR")
    for countries in ([de, fr], [fr, de]):
        payments = [(0, 0, AS_OF_US - 1 - i, 5, 1, c, 0) for i, c in enumerate(countries)]
        assert aggregate(history_of(payments), AS_OF_US).customers[0, -1] == de


def test_tokens_are_numbered_in_order_of_appearance() -> None:
    """Equal tokens share a number."""
    assert number([b"x", b"y", b"x"])[0] == [b"x", b"y"]
    assert number([b"x", b"y", b"x"])[1].tolist() == [0, 1, 0]


def test_columns_of_different_lengths_are_refused() -> None:
    """A history that does not hold together is refused where it is made."""
    whole = history_of([(0, 0, AS_OF_US - 1, 5, 1, 0, 0)])
    with pytest.raises(ValueError, match="channel"):
        replace(whole, channel=np.zeros(2, np.int8))


def check(layout: Layout, row: np.ndarray, expected: dict[str, float]) -> None:
    """Compare a profile with values by name; none stand for the defaults."""
    for k, column in enumerate(layout.columns):
        value = expected.get(column.name, column.default)
        # float32, and sums of squares of amounts up to 10^12
        assert row[k] == pytest.approx(value, rel=2e-6, abs=1e-5), column.name


def customer_row(payments: list[Payment]) -> dict[str, float]:
    """A customer's profile, one definition a line."""
    if not payments:
        return {}
    n, amounts = len(payments), [p[3] for p in payments]
    hours = [p[2] // HOUR_US % 24 for p in payments]
    mean = statistics.fmean(amounts)
    countries = Counter(p[5] for p in payments if p[5])
    return {
        "known": 1,
        "count_log2": np.log2(1 + n),
        "tx_per_day": n / max(1, (AS_OF_US - min(p[2] for p in payments)) / DAY_US),
        "amount_mean": mean,
        "amount_std": statistics.pstdev(amounts),
        "amount_mean_log2": np.log2(1 + mean),
        "amount_max_log2": np.log2(1 + max(amounts)),
        "night_share": sum(h < 6 for h in hours) / n,
        "ecommerce_share": sum(CHANNELS[p[4]] == "ECOMMERCE" for p in payments) / n,
        "hour_sin": statistics.fmean(SIN[h] for h in hours),
        "hour_cos": statistics.fmean(COS[h] for h in hours),
        "country": min(countries, key=lambda c: (-countries[c], c), default=0),
    }


def terminal_row(payments: list[Payment]) -> dict[str, float]:
    """A terminal's profile, one definition a line."""
    if not payments:
        return {}
    n = len(payments)
    end = AS_OF_US - DELAY_DAYS * DAY_US
    labelled = [p for p in payments if p[6] >= 0 and p[2] < end]
    return {
        "known": 1,
        "count_log2": np.log2(1 + n),
        "tx_per_day": n / max(1, (AS_OF_US - min(p[2] for p in payments)) / DAY_US),
        "amount_mean_log2": np.log2(1 + statistics.fmean(p[3] for p in payments)),
        "fraud_rate": rate(labelled),
        "fraud_rate_recent": rate([p for p in labelled if p[2] >= end - RECENT_DAYS * DAY_US]),
    }


def rate(labelled: list[Payment]) -> float:
    """The smoothed share of frauds."""
    frauds = sum(p[6] for p in labelled)
    prior = FRAUD_RATE_PRIOR * FRAUD_RATE_STRENGTH
    return (frauds + prior) / (len(labelled) + FRAUD_RATE_STRENGTH)
