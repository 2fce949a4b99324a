"""Decisions at their thresholds, and reasons by occlusion."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from app.decide import DECISIONS, Policy, decide, reasons
from app.errors import ConfigError
from app.records import Float32s
from features.contract import FEATURES, NAMES, WIDTH

POLICY = Policy(0.1, 0.7)
ALL_ROWS = np.arange(1)


class Weighted:
    """A scorer that adds up weighted features, and remembers how many rows it was given."""

    model_id, feature_contract_id, provider = "weighted-1", "none", "none"

    def __init__(self, **weights: float) -> None:
        self.weights = np.zeros(WIDTH, np.float32)
        for name, weight in weights.items():
            self.weights[NAMES.index(name)] = weight
        self.rows: list[int] = []

    def score_many(self, matrix: Float32s) -> Float32s:
        """The weighted sum."""
        self.rows.append(len(matrix))
        found: Float32s = (matrix * self.weights).sum(axis=1, dtype=np.float32)
        return found


def why(scorer: Weighted, matrix: Float32s, top: int = 3) -> list[tuple[str, Any]]:
    """The reasons of the first row against zeros, as (feature, approximate contribution)."""
    scores = scorer.score_many(matrix)
    [found] = reasons(matrix, ALL_ROWS, scores, scorer, np.zeros(WIDTH, np.float32), top=top)
    assert all(r.code == FEATURES[NAMES.index(r.feature)].reason for r in found)
    assert all(r.value == matrix[0, NAMES.index(r.feature)] for r in found)
    return [(reason.feature, pytest.approx(reason.contribution)) for reason in found]


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
    """Contributions are what the score loses, strongest first, no more than asked."""
    scorer = Weighted(night=0.1, atm=0.3, country_foreign=0.2, customer_tx_per_day=0.05)
    matrix = np.ones((1, WIDTH), np.float32)
    expected = [("atm", 0.3), ("country_foreign", 0.2), ("night", 0.1)]
    assert why(scorer, matrix) == expected
    assert why(scorer, matrix, top=1) == expected[:1]


def test_a_feature_that_lowers_the_score_is_no_reason() -> None:
    """What makes a payment look better, and what changes nothing, is left out."""
    scorer = Weighted(night=0.5, weekend=0.4, atm=-0.2)
    found = why(scorer, np.ones((1, WIDTH), np.float32))
    assert found == [("night", 0.5), ("weekend", 0.4)]


def test_a_usual_value_is_no_reason() -> None:
    """A feature at its reference contributes nothing, whatever its weight."""
    matrix = np.zeros((1, WIDTH), np.float32)
    matrix[0, NAMES.index("night")] = 1
    assert why(Weighted(night=0.5, atm=0.5), matrix) == [("night", 0.5)]


def test_a_code_is_named_once() -> None:
    """Of features that share a reason code, the strongest speaks for it."""
    scorer = Weighted(amount_z=0.3, amount_over_mean_log2=0.2, night=0.1)
    assert why(scorer, np.ones((1, WIDTH), np.float32)) == [("amount_z", 0.3), ("night", 0.1)]


def test_ties_follow_the_contracts_order() -> None:
    """Equal contributions are named in the order of the features, every time."""
    scorer = Weighted(terminal_known=0.25, atm=0.25, weekend=0.25, country_foreign=0.25)
    found = why(scorer, np.ones((1, WIDTH), np.float32))
    assert [name for name, _ in found] == ["weekend", "atm", "country_foreign"]


def test_reasons_belong_to_their_rows() -> None:
    """Among many rows, more than a chunk holds, each alert has its own reasons."""
    n = 400
    matrix = np.zeros((n, WIDTH), np.float32)
    own = np.arange(n) % WIDTH
    matrix[np.arange(n), own] = 1
    scorer = Weighted(**dict.fromkeys(NAMES, 0.5))
    rows = np.arange(1, n, 2)
    scores = scorer.score_many(matrix)
    scorer.rows.clear()
    found = reasons(matrix, rows, scores, scorer, np.zeros(WIDTH, np.float32))
    assert [r[0].feature for r in found] == [NAMES[own[row]] for row in rows]
    assert all(len(r) == 1 for r in found)
    assert sum(scorer.rows) == len(rows) * WIDTH
    assert max(scorer.rows) <= 2048


def test_no_alerts_ask_nothing_of_the_model() -> None:
    """A batch without alerts costs no inference."""
    scorer = Weighted()
    none = np.empty(0, np.int64)
    scores = np.zeros(2, np.float32)
    found = reasons(np.zeros((2, WIDTH), np.float32), none, scores, scorer, scorer.weights)
    assert found == []
    assert scorer.rows == []
