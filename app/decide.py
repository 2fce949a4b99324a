"""Stage 4: probabilities become decisions, and an alert gets its reasons.

`decide` compares with the policy's two thresholds, as float32 on both sides, which is what scores
and alerts carry. `reasons` ranks what each feature adds to the raw score (log-odds), which the
explainer behind `ports.Explainer` knows exactly; it is asked about alerted rows only. Same input,
same result, ties in the order of the features. Imports no model runtime, no clock.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError
from app.ports import Explainer
from app.records import Float32s, Int8s, Int64s, Reason
from features.contract import FEATURES

APPROVE, REVIEW, DECLINE = range(3)
DECISIONS = ("APPROVE", "REVIEW", "DECLINE")
"""The symbols of the schemas' Decision, in their order."""


@dataclass(frozen=True, slots=True)
class Policy:
    """From which score on a transaction is reviewed, and from which it is declined."""

    review: float
    decline: float

    def __post_init__(self) -> None:
        """Raise ConfigError unless 0 < review <= decline <= 1."""
        if not 0 < self.review <= self.decline <= 1:
            msg = f"thresholds need 0 < review <= decline <= 1; got {self.review}, {self.decline}"
            raise ConfigError(msg)

    @property
    def thresholds(self) -> Float32s:
        """The least score of each decision, float32 (3,), by the decision's number."""
        return np.array([0, self.review, self.decline], np.float32)


def decide(scores: Float32s, policy: Policy) -> Int8s:
    """The decision for each score, int8 (n,); a score equal to a threshold has reached it."""
    _, review, decline = policy.thresholds
    reached: Int8s = (scores >= review).astype(np.int8) + (scores >= decline).astype(np.int8)
    return reached


def reasons(
    matrix: Float32s, rows: Int64s, explainer: Explainer, *, top: int = 3
) -> list[tuple[Reason, ...]]:
    """Why each of `rows` scored as it did: up to `top` reasons, strongest first.

    `matrix` float32 (n, F) is the whole batch. Features that share a reason code are represented by
    the strongest of them; a feature that adds nothing to the score is no reason.
    """
    if not len(rows):
        return []
    vectors = matrix[rows]
    contributions = explainer.contributions(vectors)
    order = np.argsort(-contributions, axis=1, kind="stable")
    return [_strongest(vectors[i], contributions[i], order[i], top) for i in range(len(rows))]


def _strongest(
    vector: Float32s, contribution: NDArray[np.float64], order: Int64s, top: int
) -> tuple[Reason, ...]:
    found: dict[str, Reason] = {}
    for column in order:
        feature, gain = FEATURES[column], float(contribution[column])
        if gain <= 0 or len(found) == top:
            break
        if feature.reason not in found:
            value = float(vector[column])
            found[feature.reason] = Reason(feature.reason, feature.name, value, gain)
    return tuple(found.values())
