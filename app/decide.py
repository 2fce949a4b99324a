"""Stage 4: probabilities become decisions, and an alert gets its reasons.

`decide` compares with the policy's two thresholds, as float32 on both sides, which is what scores
and alerts carry. `reasons` works by occlusion: one feature after another takes its usual value (the
reference, the median of the training data), and what the score loses is that feature's
contribution. Same input, same result, ties in the order of the features. Raises ScoringError
through `score` only. Imports no model runtime, no clock.
"""

from dataclasses import dataclass

import numpy as np

from app.errors import ConfigError
from app.ports import Scorer
from app.records import Float32s, Int8s, Int64s, Reason
from app.score import score
from features.contract import FEATURES

APPROVE, REVIEW, DECLINE = range(3)
DECISIONS = ("APPROVE", "REVIEW", "DECLINE")
"""The symbols of the schemas' Decision, in their order."""

OCCLUDED_ROWS_MAX = 2048


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
    matrix: Float32s,
    rows: Int64s,
    scores: Float32s,
    scorer: Scorer,
    reference: Float32s,
    *,
    top: int = 3,
) -> list[tuple[Reason, ...]]:
    """Why each of `rows` scored as it did: up to `top` reasons, strongest first.

    `matrix` float32 (n, F) and `scores` float32 (n,) are the whole batch, `reference` float32 (F,).
    Features that share a reason code are represented by the strongest of them; a feature without
    which the score would be as high or higher is no reason.
    """
    vectors = matrix[rows]
    contributions = _contributions(vectors, scores[rows], scorer, reference)
    order = np.argsort(-contributions, axis=1, kind="stable")
    return [_strongest(vectors[i], contributions[i], order[i], top) for i in range(len(rows))]


def _contributions(
    vectors: Float32s, scores: Float32s, scorer: Scorer, reference: Float32s
) -> Float32s:
    """What each score loses when a feature takes its reference value, float32 (k, F)."""
    k, width = vectors.shape
    occluded = np.repeat(vectors, width, axis=0)
    column = np.tile(np.arange(width), k)
    occluded[np.arange(k * width), column] = reference[column]
    parts = [
        score(occluded[at : at + OCCLUDED_ROWS_MAX], scorer)
        for at in range(0, len(occluded), OCCLUDED_ROWS_MAX)
    ]
    without = np.concatenate([*parts, np.empty(0, np.float32)]).reshape(k, width)
    lost: Float32s = scores[:, np.newaxis] - without
    return lost


def _strongest(
    vector: Float32s, contribution: Float32s, order: Int64s, top: int
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
