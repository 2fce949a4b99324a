"""Stage 4: probabilities become decisions, and an alert gets its reasons.

`decide` compares with the policy's two thresholds, as float32 on both sides, which is what scores
and alerts carry. `reasons` ranks what each feature adds to the raw score (log-odds), which the
explainer behind `ports.Explainer` knows exactly; it is asked about alerted rows only. Same input,
same result, ties in the order of the features. Imports no model runtime, no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError
from app.ports import Explainer
from app.records import Float32s, Int8s, Int32s, Int64s
from features.compiled import compiled
from features.contract import FEATURES

APPROVE, REVIEW, DECLINE = range(3)
DECISIONS = ("APPROVE", "REVIEW", "DECLINE")
"""The symbols of the schemas' Decision, in their order."""


_, _CODES = np.unique([feature.reason for feature in FEATURES], return_inverse=True)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a transaction scored high: one feature, its value, and what it adds to the score."""

    code: str
    feature: str
    value: float
    contribution: float


@dataclass(frozen=True, slots=True, eq=False)
class Reasons(Sequence[tuple[Reason, ...]]):
    """The reasons of k alerts in columns, strongest first; one alert's are made when asked for.

    `feature` int32 (its place in the contract), `value` float32 and `contribution` float64 are
    (k, top), of which the first `counts` int8 (k,) of a row are there.
    """

    feature: Int32s
    value: Float32s
    contribution: NDArray[np.float64]
    counts: Int8s

    @classmethod
    def none(cls, k: int) -> "Reasons":
        """No reasons for k alerts."""
        no = np.zeros((k, 0))
        return cls(no.astype(np.int32), no.astype(np.float32), no, np.zeros(k, np.int8))

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, i: int) -> tuple[Reason, ...]: ...
    @overload
    def __getitem__(self, i: slice) -> "Reasons": ...
    def __getitem__(self, i: int | slice) -> "tuple[Reason, ...] | Reasons":
        its = self.feature[i], self.value[i], self.contribution[i]
        if isinstance(i, slice):
            return Reasons(*its, self.counts[i])
        rows = zip(*(each[: self.counts[i]].tolist() for each in its), strict=True)
        return tuple(
            Reason(FEATURES[k].reason, FEATURES[k].name, value, gain) for k, value, gain in rows
        )


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


def reasons(matrix: Float32s, rows: Int64s, explainer: Explainer, *, top: int = 3) -> Reasons:
    """Why each of `rows` scored as it did: up to `top` reasons, strongest first.

    `matrix` float32 (n, F) is the whole batch. Features that share a reason code are represented by
    the strongest of them; a feature that adds nothing to the score is no reason.
    """
    if not len(rows):
        return Reasons.none(0)
    vectors = matrix[rows]
    contributions = explainer.contributions(vectors)
    feature, count = np.zeros((len(rows), top), np.int32), np.empty(len(rows), np.int8)
    _strongest(contributions, _CODES, feature, count)
    values = np.take_along_axis(vectors, feature, 1)
    return Reasons(feature, values, np.take_along_axis(contributions, feature, 1), count)


@compiled
def _strongest(
    contributions: NDArray[np.float64], codes: Int64s, feature: Int32s, count: Int8s
) -> None:
    for i in range(len(count)):
        gains, found = contributions[i], 0
        for k in range(feature.shape[1]):
            best, most = -1, 0.0
            for j in range(len(gains)):
                if gains[j] > most:
                    told = False
                    for m in range(k):
                        told |= codes[feature[i, m]] == codes[j]
                    if not told:
                        best, most = j, gains[j]
            if best < 0:
                break
            feature[i, k] = best
            found = k + 1
        count[i] = found
