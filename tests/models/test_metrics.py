"""The measures on cases that can be counted by hand, and in the book's own words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import metrics
from models.metrics import Floats, Int8s, Int32s, Int64s, Skill

Row = tuple[int, int, int, float]
Columns = tuple[Int64s, Int32s, Int8s, Floats]


def columns(*rows: Row) -> Columns:
    """Day, customer, fraud and score of some payments."""
    day, customer, fraud, scores = zip(*rows, strict=True)
    return (
        np.array(day),
        np.array(customer, np.int32),
        np.array(fraud, np.int8),
        np.array(scores, np.float32),
    )


def test_a_found_card_leaves_the_days_after() -> None:
    """The second day's first place goes to the next card, as the first is blocked."""
    table = columns(
        (0, 1, 1, 0.9), (0, 2, 0, 0.8), (1, 1, 1, 0.9), (1, 3, 0, 0.5), (1, 4, 1, 0.4)
    )  # fmt: skip
    assert metrics.card_precision(*table, top=1) == pytest.approx((1 + 0) / 2)
    assert metrics.card_precision(*table, top=2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_a_card_that_was_not_found_stays() -> None:
    """A defrauded card below the cut may be found on a later day."""
    table = columns((0, 1, 1, 0.1), (0, 2, 0, 0.8), (1, 1, 1, 0.9))
    assert metrics.card_precision(*table, top=1) == pytest.approx((0 + 1) / 2)


def test_a_card_counts_by_its_highest_score_and_by_any_fraud() -> None:
    """The fraud may be another payment of the card than the one that brought it to the top."""
    table = columns((0, 1, 0, 0.9), (0, 1, 1, 0.1), (0, 2, 0, 0.5))
    assert metrics.card_precision(*table, top=1) == 1.0


def test_the_share_is_of_all_places() -> None:
    """A day of fewer cards than places is not measured more gently."""
    assert metrics.card_precision(*columns((0, 1, 1, 0.9)), top=100) == pytest.approx(0.01)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 1),
                          st.floats(0, 1, width=32)), min_size=1, max_size=40))  # fmt: skip
def test_card_precision_is_what_the_definition_says(rows: list[Row]) -> None:
    """The same number as a walk over days and cards in plain Python."""
    rows.sort(key=lambda row: row[0])
    found: set[int] = set()
    shares = []
    for today in sorted({row[0] for row in rows}):
        cards: dict[int, tuple[float, int]] = {}
        for day, customer, fraud, score in rows:
            if day == today and customer not in found:
                best, bad = cards.get(customer, (-1.0, 0))
                cards[customer] = (max(best, score), max(bad, fraud))
        first = sorted(cards, key=lambda card: (-cards[card][0], card))[:2]
        hits = {card for card in first if cards[card][1]}
        shares.append(len(hits) / 2)
        found |= hits
    expected = sum(shares) / len(shares)
    assert metrics.card_precision(*columns(*rows), top=2) == pytest.approx(expected)


def test_skill_is_one_for_a_perfect_order() -> None:
    """Frauds first: AUC and average precision are 1."""
    table = columns((0, 1, 1, 0.9), (0, 2, 0, 0.5), (0, 3, 0, 0.1))
    assert metrics.skill(*table) == Skill(1.0, 1.0, 0.01)


def test_average_precision_weighs_the_places_of_frauds() -> None:
    """Frauds at places 1 and 3 of 4: (1/1 + 2/3) / 2."""
    table = columns((0, 1, 1, 0.9), (0, 2, 0, 0.5), (0, 3, 1, 0.3), (0, 4, 0, 0.1))
    found = metrics.skill(*table)
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.auc == pytest.approx(3 / 4)


def test_the_mean_is_taken_measure_by_measure() -> None:
    """Nothing is mixed up."""
    assert metrics.mean([Skill(0, 0.5, 0.25), Skill(1, 0.5, 0.75)]) == Skill(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no folds"):
        metrics.mean([])


def test_highest_takes_so_many_of_each_day() -> None:
    """The day's highest, in any order of rows, ties by their order."""
    day = np.array([1, 0, 0, 1, 0])
    scores = np.array([0.1, 0.5, 0.9, 0.2, 0.5])
    assert metrics.highest(day, scores, 2).tolist() == [True, True, True, True, False]
    assert metrics.highest(day, scores, 1).tolist() == [False, False, True, True, False]


def test_recall_is_by_scenario() -> None:
    """Each kind of fraud by itself; honest payments have none."""
    scenario = np.array([0, 1, 1, 3, 0], np.int8)
    alerted = np.array([True, True, False, True, False])
    assert metrics.recall_by_scenario(scenario, alerted) == {1: 0.5, 3: 1.0}
