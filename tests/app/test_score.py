"""Scores are checked: what is no probability for each row never leaves the stage."""

import numpy as np
import pytest

from app.errors import ScoringError
from app.records import Float32s
from app.score import score


class Answer:
    """A scorer that gives a fixed answer."""

    model_id, feature_contract_id, provider = "answer-1", "none", "none"

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer
        self.calls = 0

    def score_many(self, matrix: Float32s) -> Float32s:
        """The answer, whatever is asked."""
        self.calls += len(matrix) > 0
        return self.answer


MATRIX = np.zeros((3, 4), np.float32)


def test_good_scores_pass_as_they_are() -> None:
    """The bounds 0 and 1 are scores."""
    answer = np.array([0, 0.5, 1], np.float32)
    assert score(MATRIX, Answer(answer)) is answer


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (np.array([0, 0.5], np.float32), r"float32\[2\] for 3 rows"),
        (np.zeros((3, 1), np.float32), r"float32\[3, 1\]"),
        (np.zeros(3), r"float64\[3\]"),
        (np.array([0, np.nan, 1], np.float32), "1 of 3 scores"),
        (np.array([-1e-7, 0, 1], np.float32), "1 of 3 scores"),
        (np.array([0, 1.0000001, np.inf], np.float32), "2 of 3 scores"),
    ],
)
def test_anything_else_is_refused(answer: np.ndarray, complaint: str) -> None:
    """Wrong shape, wrong type, NaN or out of range: ScoringError with the model's id."""
    with pytest.raises(ScoringError, match=complaint) as raised:
        score(MATRIX, Answer(answer))
    assert "answer-1" in str(raised.value)


def test_no_rows_need_no_model() -> None:
    """An empty batch gives no scores and asks nobody."""
    scorer = Answer(np.zeros(1, np.float32))
    assert score(MATRIX[:0], scorer).shape == (0,)
    assert scorer.calls == 0
