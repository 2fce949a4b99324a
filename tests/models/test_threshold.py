"""Thresholds keep what was asked for where they were picked, and say what to expect."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigError
from models.threshold import (
    DECLINE_PRECISION,
    ByAlerts,
    ByCost,
    ByTra,
    Costs,
    Rule,
    consequences,
    money_curve,
    parse_costs,
    pick,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], np.float32)
FRAUD = np.array([1, 1, 0, 1, 0, 0, 1, 0], np.int8)
AMOUNT_MINOR = np.array([100_00, 50_00, 20_00, 30_00, 80_00, 10_00, 4_00, 1000_00])

payments = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0]),
        st.integers(0, 1),
        st.integers(1, 500_00),
    ),
    min_size=1,
    max_size=30,
)


def columns(rows: list[tuple[float, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, frauds and amounts."""
    scores, fraud, amount_minor = zip(*rows, strict=True)
    return np.array(scores, np.float32), np.array(fraud, np.int8), np.array(amount_minor)


def saved(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], review: float, decline: float, costs: Costs
) -> float:
    """Money saved by two thresholds, counted payment by payment."""
    money = 0.0
    for score, fraud, amount_minor in zip(*rows, strict=True):
        if score >= np.float32(decline):
            money += amount_minor / 100 if fraud else -costs.decline
        elif score >= np.float32(review):
            money += (amount_minor / 100 if fraud else 0) - costs.review
    return money


def test_alerts_a_day_are_a_count_of_the_highest_scores() -> None:
    """Two days of two alerts: the four highest."""
    choice = pick(SCORES, FRAUD, AMOUNT_MINOR, 2, ByAlerts(2))
    assert np.float32(choice.review) == SCORES[3]
    assert choice.expected["alerts_per_day"] == 2
    assert choice.expected["review_precision"] == pytest.approx(3 / 4)
    assert choice.expected["review_recall"] == pytest.approx(3 / 4)
    assert choice.expected["money_recall"] == pytest.approx(180 / 184)
    assert choice.rule == "alerts-per-day 2"


@given(payments, st.integers(1, 3), st.floats(0.1, 20))
def test_the_budget_is_kept_and_used(
    rows: list[tuple[float, int, int]], days: int, per_day: float
) -> None:
    """Never more alerts than asked for, unless scores of 1 tie; the next score would be more."""
    scores, fraud, amount_minor = columns(rows)
    choice = pick(scores, fraud, amount_minor, days, ByAlerts(per_day))
    alerts = int((scores >= np.float32(choice.review)).sum())
    assert alerts <= per_day * days or choice.review == 1
    below = scores[scores < np.float32(choice.review)]
    if len(below):
        assert (scores >= below.max()).sum() > per_day * days


@given(payments, st.floats(0, 50), st.floats(0, 200))
def test_no_two_thresholds_save_more(
    rows: list[tuple[float, int, int]], review: float, decline: float
) -> None:
    """The least cost of all pairs of cuts, counted payment by payment."""
    costs, table = Costs(review, decline), columns(rows)
    choice = pick(*table, 1, ByCost(costs))
    cuts = [*np.unique(table[0]).tolist(), 2.0]
    best = max(saved(table, low, high, costs) for low in cuts for high in cuts if low <= high)
    chosen = saved(table, choice.review, choice.decline, costs)
    assert choice.expected["money_saved_per_day"] == pytest.approx(chosen, abs=1e-6)
    # A manifest takes no threshold above 1, so a score of 1 cannot be let through.
    if table[0].max() < 1:
        assert chosen == pytest.approx(best, abs=1e-6)


@given(payments, st.floats(0.01, 50))
def test_the_fraud_rate_is_kept_with_the_fewest_alerts(
    rows: list[tuple[float, int, int]], percent: float
) -> None:
    """What is let through stays within the rate; one cut higher it would not."""
    scores, fraud, amount_minor = columns(rows)
    choice = pick(scores, fraud, amount_minor, 1, ByTra(percent))

    def rate(review: float) -> float:
        passed = scores < np.float32(review)
        missed = amount_minor[passed & (fraud == 1)].sum()
        executed = amount_minor[passed | (fraud == 0)].sum()
        return float(100 * missed / executed) if executed else 0.0

    assert rate(choice.review) <= percent + 1e-9
    assert choice.expected["fraud_rate_percent"] == pytest.approx(rate(choice.review))
    alerted = scores[scores >= np.float32(choice.review)]
    if len(alerted) and choice.review < 1:
        fewer = alerted[alerted > alerted.min()]
        assert rate(fewer.min() if len(fewer) else 2.0) > percent - 1e-9


@given(payments, st.sampled_from([ByAlerts(3), ByTra(5.0), ByCost(Costs(2, 30))]))
def test_thresholds_fit_a_manifest(rows: list[tuple[float, int, int]], rule: Rule) -> None:
    """Above 0, up to 1, and nothing is declined that is not reviewed."""
    choice = pick(*columns(rows), 1, rule)
    assert 0 < choice.review <= choice.decline <= 1


@given(payments)
def test_declines_are_precise(rows: list[tuple[float, int, int]]) -> None:
    """Where the rule is silent on declines, nine of ten are frauds; a tie at 1 apart."""
    scores, fraud, amount_minor = columns(rows)
    choice = pick(scores, fraud, amount_minor, 1, ByAlerts(100))
    declined = scores >= np.float32(choice.decline)
    if declined.any() and choice.decline < 1:
        assert fraud[declined].mean() >= DECLINE_PRECISION - 1e-9


def test_consequences_are_counted_by_hand() -> None:
    """Review from .5 on, decline from .8 on: three reviews, two declines, one fraud missed."""
    found = consequences(SCORES, FRAUD, AMOUNT_MINOR, 2, 0.5, 0.8, Costs(5, 25))
    assert found["alerts_per_day"] == 2.5
    assert found["declines_per_day"] == 1
    assert found["decline_precision"] == 1
    assert found["decline_recall"] == pytest.approx(2 / 4)
    assert found["review_precision"] == pytest.approx(3 / 5)
    assert found["money_saved_per_day"] == pytest.approx((180 - 3 * 5) / 2)
    assert found["fraud_rate_percent"] == pytest.approx(100 * 4 / (1294 - 180))
    honest = consequences(SCORES, 1 - FRAUD, AMOUNT_MINOR, 1, 0.8, 0.8, Costs(5, 25))
    assert honest["money_saved_per_day"] == pytest.approx(-2 * 25)


def test_the_money_curve_ends_where_everything_is_reviewed() -> None:
    """It starts with nobody; its values are those of reviews alone."""
    threshold, alerts, money = money_curve(SCORES, FRAUD, AMOUNT_MINOR, 2, Costs(5, 25))
    assert (alerts[0], money[0]) == (0, 0)
    assert (alerts[-1], money[-1]) == (4, (184 - 8 * 5) / 2)
    assert threshold[1:].astype(np.float32).tolist() == SCORES.tolist()


def test_costs_are_read_from_text() -> None:
    """Any of them; what is not named keeps its value."""
    assert parse_costs("review=2.5") == Costs(review=2.5)
    assert parse_costs("decline=0, review=1") == Costs(1, 0)


@pytest.mark.parametrize("text", ["", "review", "review=x", "lunch=5", "review=-1", "review=nan"])
def test_costs_that_make_no_sense_are_refused(text: str) -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match="cost"):
        parse_costs(text)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_rules_that_make_no_sense_are_refused(value: float) -> None:
    """No budget of nothing, no rate of everything."""
    with pytest.raises(ConfigError):
        ByAlerts(value)
    with pytest.raises(ConfigError):
        ByTra(value)


def test_a_reference_rate_says_which_amounts_it_exempts() -> None:
    """The steps of the regulation."""
    rates = {0.13: 100, 0.1: 100, 0.06: 250, 0.01: 500, 0.005: 500, 0.2: 0}
    assert {rate: ByTra(rate).exempt_up_to for rate in rates} == rates


def test_no_payments_is_an_error() -> None:
    """There is nothing to pick on."""
    with pytest.raises(ValueError, match="no payments"):
        pick(SCORES[:0], FRAUD[:0], AMOUNT_MINOR[:0], 1, ByAlerts(1))
