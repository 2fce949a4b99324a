"""Decisions at their thresholds, and reasons by contribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import schemas
from app.decide import DECISIONS, Policy, decide, reasons
from app.errors import ConfigError
from app.records import Float32s
from features.contract import FEATURES, NAMES, WIDTH

POLICY = Policy(0.1, 0.7)
ONES = np.ones(WIDTH, np.float32)


class Weighted:
    """An explainer of weighted features, which remembers how many rows it was asked about."""

    base = 0.0

    def __init__(self, **weights: float) -> None:
        self.weights = np.zeros(WIDTH)
        for name, weight in weights.items():
            self.weights[NAMES.index(name)] = weight
        self.rows: list[int] = []

    def contributions(self, rows: Float32s) -> NDArray[np.float64]:
        """Each feature times its weight."""
        self.rows.append(len(rows))
        return rows * self.weights


def why(explainer: Weighted, row: Float32s, top: int = 3) -> list[tuple[str, float]]:
    """The reasons of a row, as (feature, contribution)."""
    [found] = reasons(row[np.newaxis], np.arange(1), explainer, top=top)
    assert all(r.code == FEATURES[NAMES.index(r.feature)].reason for r in found)
    assert all(r.value == row[NAMES.index(r.feature)] for r in found)
    return [(reason.feature, reason.contribution) for reason in found]


def test_a_threshold_belongs_to_what_it_opens() -> None:
    """A score equal to a threshold as float32 is reviewed or declined, one bit below is not."""
    limits = POLICY.thresholds
    below = np.nextafter(limits, np.float32(0), dtype=np.float32)
    scores = np.array([0, below[1], limits[1], below[2], limits[2], 1], np.float32)
    found = decide(scores, POLICY)
    assert found.dtype == np.int8
    assert [DECISIONS[d] for d in found] == [
        "APPROVE", "APPROVE", "REVIEW", "REVIEW", "DECLINE", "DECLINE",
    ]  # fmt: skip


@given(st.lists(st.floats(0, 1, width=32), max_size=50))
def test_every_decision_has_reached_its_threshold(values: list[float]) -> None:
    """For any scores, the threshold of the decision is reached and the next one is not."""
    scores = np.array(values, np.float32)
    limits = np.append(POLICY.thresholds, np.float32(np.inf))
    decisions = decide(scores, POLICY)
    assert (scores >= limits[decisions]).all()
    assert (scores < limits[decisions + 1]).all()


def test_decisions_are_the_schemas() -> None:
    """The numbers are the symbols of RiskScore's decision, in its order."""
    fields = {field["name"]: field for field in schemas.load("risk_score").parsed["fields"]}
    assert tuple(fields["decision"]["type"]["symbols"]) == DECISIONS


@pytest.mark.parametrize(
    ("review", "decline"), [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1), (float("nan"), 0.5)]
)
def test_thresholds_out_of_order_are_refused(review: float, decline: float) -> None:
    """A policy that would review nothing or everything by mistake cannot be made."""
    with pytest.raises(ConfigError, match="thresholds"):
        Policy(review, decline)


def test_the_strongest_features_are_the_reasons() -> None:
    """Whatever adds most to the score comes first, no more than asked."""
    explainer = Weighted(night=0.1, amount=0.3, weekend=0.2, customer_count_1d=0.05)
    expected = [("amount", 0.3), ("weekend", 0.2), ("night", 0.1)]
    assert why(explainer, ONES) == expected
    assert why(explainer, ONES, top=1) == expected[:1]


def test_a_feature_that_lowers_the_score_is_no_reason() -> None:
    """What makes a payment look better, and what changes nothing, is left out."""
    explainer = Weighted(night=0.5, weekend=0.4, amount=-0.2)
    assert why(explainer, ONES) == [("night", 0.5), ("weekend", 0.4)]


def test_a_code_is_named_once() -> None:
    """Of features that share a reason code, the strongest speaks for it."""
    explainer = Weighted(amount_over_median=0.3, amount_over_mean_30d=0.2, night=0.1)
    assert why(explainer, ONES) == [("amount_over_median", 0.3), ("night", 0.1)]


def test_ties_follow_the_contracts_order() -> None:
    """Equal contributions are named in the order of the features, every time."""
    explainer = Weighted(terminal_risk_1d=0.25, night=0.25, amount=0.25, weekend=0.25)
    assert [name for name, _ in why(explainer, ONES)] == ["amount", "weekend", "night"]


def test_reasons_belong_to_their_rows() -> None:
    """Among many rows each alert has its own reasons, and the others are not explained."""
    n = 400
    matrix = np.zeros((n, WIDTH), np.float32)
    own = np.arange(n) % WIDTH
    matrix[np.arange(n), own] = 1
    explainer = Weighted(**dict.fromkeys(NAMES, 0.5))
    rows = np.arange(1, n, 2)
    found = reasons(matrix, rows, explainer)
    assert [[r.feature for r in reason] for reason in found] == [[NAMES[own[row]]] for row in rows]
    assert explainer.rows == [len(rows)]


def test_no_alerts_ask_nothing_of_the_explainer() -> None:
    """A batch without alerts costs nothing."""
    explainer = Weighted()
    none = reasons(np.zeros((2, WIDTH), np.float32), np.empty(0, np.int64), explainer)
    assert list(none) == []
    assert explainer.rows == []
