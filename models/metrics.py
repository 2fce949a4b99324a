"""What a model is worth on judged payments: ranking, cards found, recall by kind, all pure.

Every function takes columns of one fold's test payments: `day` int64, `customer` int32, `fraud`
int8 (0 or 1), `scenario` int8 (0 no fraud), `scores` float (n,), higher is worse. Scores that tie
are ranked by the order of the rows, so that a result does not depend on a sort's mood.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

CARDS_A_DAY = 100


@dataclass(frozen=True, slots=True)
class Skill:
    """Area under the ROC curve, average precision, and card precision@100."""

    auc: float
    average_precision: float
    card_precision: float


def skill(day: Int64s, customer: Int32s, fraud: Int8s, scores: Floats) -> Skill:
    """The three measures of the book; raises ValueError unless there are frauds and others."""
    return Skill(
        float(roc_auc_score(fraud, scores)),
        float(average_precision_score(fraud, scores)),
        card_precision(day, customer, fraud, scores),
    )


def mean(skills: Sequence[Skill]) -> Skill:
    """The mean of each measure over folds; raises ValueError for none."""
    if not skills:
        raise ValueError("no folds to average")
    return Skill(*np.mean([astuple(one) for one in skills], axis=0).tolist())


def card_precision(
    day: Int64s, customer: Int32s, fraud: Int8s, scores: Floats, top: int = CARDS_A_DAY
) -> float:
    """Share of frauds among the `top` cards of each day, mean over the days.

    A card's score is its highest of the day; it counts as found if any of its payments that day is
    a fraud. Found cards are blocked, so they leave the days after. The share is of `top` even on a
    day of fewer cards, as in the book.
    """
    found: NDArray[np.int32] = np.empty(0, np.int32)
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero(day == today)
        rows = rows[~np.isin(customer[rows], found)]
        cards, place = np.unique(customer[rows], return_inverse=True)
        highest, defrauded = np.full(len(cards), -np.inf), np.zeros(len(cards), np.int8)
        np.maximum.at(highest, place, scores[rows])
        np.maximum.at(defrauded, place, fraud[rows])
        first = np.argsort(-highest, kind="stable")[:top]
        hits = cards[first[defrauded[first] == 1]]
        shares.append(len(hits) / top)
        found = np.concatenate([found, hits])
    return float(np.mean(shares))


def highest(day: Int64s, scores: Floats, per_day: int) -> Bools:
    """Which payments are among the `per_day` highest scores of their day, bool (n,)."""
    order = np.lexsort((-scores, day))
    _, first, counts = np.unique(day[order], return_index=True, return_counts=True)
    chosen = np.zeros(len(day), np.bool_)
    chosen[order] = np.arange(len(day)) - np.repeat(first, counts) < per_day
    return chosen


def recall_by_scenario(scenario: Int8s, alerted: Bools) -> dict[int, float]:
    """The share of each scenario's payments that were alerted, by the scenario's number."""
    kinds = np.unique(scenario[scenario > 0]).tolist()
    return {kind: float(alerted[scenario == kind].mean()) for kind in kinds}
