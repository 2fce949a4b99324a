"""The thresholds of REVIEW and DECLINE, picked by what the payments team can afford.

In: scores of validation payments with their truth and amounts, and a rule: so many alerts a day,
the least cost, or a reference fraud rate of the PSD2. Out: a `Choice` of both thresholds with the
precision, recall and money to expect of them. `consequences` says the same of any thresholds on any
payments, so that what was asked for can be held against what came. Pure; ConfigError for a rule
that makes no sense, ValueError for no payments.

A score alerts from the threshold on, compared as float32. A cut never parts equal scores. A review
finds out the truth; a declined payment moves no money. All money is in major units.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError

Bools = NDArray[np.bool_]
Float64s = NDArray[np.float64]
Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]
Int64s = NDArray[np.int64]

MINOR_PER_MAJOR = 100
DECLINE_PRECISION = 0.9
"""Where the rule says nothing of declines: the longest run from the top with this precision."""

TRA_EXEMPT_UP_TO = {0.13: 100, 0.06: 250, 0.01: 500}
"""Reference fraud rate in per cent of value, and the amount in EUR up to which it exempts remote
card payments from strong authentication: annex of the RTS, Delegated Regulation (EU) 2018/389."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a review costs, and what it costs to decline an honest payment; major units."""

    review: float = 5.0
    decline: float = 25.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a cost that is negative or no number."""
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < np.inf:
                raise ConfigError(f"cost of a {field.name} must be 0 or more")


@dataclass(frozen=True, slots=True)
class ByAlerts:
    """At most so many alerts (reviews and declines) a day, on average."""

    per_day: float
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        """Raise ConfigError unless above 0."""
        if not 0 < self.per_day < np.inf:
            raise ConfigError(f"alerts a day must be above 0, not {self.per_day:g}")

    def __str__(self) -> str:
        return f"alerts-per-day {self.per_day:g}"


@dataclass(frozen=True, slots=True)
class ByCost:
    """Whatever saves the most money."""

    costs: Costs

    def __str__(self) -> str:
        return f"cost review={self.costs.review:g},decline={self.costs.decline:g}"


@dataclass(frozen=True, slots=True)
class ByTra:
    """As few alerts as keep fraud within so many per cent of the value of executed payments.

    An alert stands for a strong authentication, which an honest customer passes and a thief does
    not.
    """

    percent: float
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        """Raise ConfigError unless it is a rate in per cent."""
        if not 0 < self.percent < 100:
            raise ConfigError(f"a fraud rate must be above 0 and below 100 %, not {self.percent:g}")

    def __str__(self) -> str:
        return f"tra-limit {self.percent:g}"

    @property
    def exempt_up_to(self) -> int:
        """The amount in EUR up to which the rate exempts; 0 where it is above every reference."""
        return max((up for rate, up in TRA_EXEMPT_UP_TO.items() if self.percent <= rate), default=0)


Rule = ByAlerts | ByCost | ByTra


@dataclass(frozen=True, slots=True)
class Choice:
    """Both thresholds, the rule that picked them, and what to expect of them."""

    review: float
    decline: float
    rule: str
    expected: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Payments from the highest score down, up to each place at which scores change.

    At place k `count` payments with `frauds` of worth `caught` have a score of `score` or more;
    float64. Place 0 is nobody, with a score above all.
    """

    score: Float64s
    count: Float64s
    frauds: Float64s
    caught: Float64s


def pick(scores: Float32s, fraud: Int8s, amount_minor: Int64s, days: int, rule: Rule) -> Choice:
    """The thresholds by a rule; the payments, float32, int8 and int64 (n,), are of so many days."""
    if not len(scores):
        raise ValueError("no payments to pick thresholds on")
    ranked = _rank(scores, fraud, amount_minor)
    match rule:
        case ByCost():
            review, decline = _cheapest(ranked, rule.costs)
        case ByAlerts():
            review = _affordable(ranked, rule.per_day * days)
            decline = _precise(ranked, review)
        case ByTra():
            review = _within_rate(ranked, rule.percent, amount_minor.sum() / MINOR_PER_MAJOR)
            decline = _precise(ranked, review)
    limits = _threshold(ranked, review), _threshold(ranked, decline)
    expected = consequences(scores, fraud, amount_minor, days, *limits, rule.costs)
    return Choice(*limits, str(rule), expected)


def consequences(
    scores: Float32s,
    fraud: Int8s,
    amount_minor: Int64s,
    days: int,
    review: float,
    decline: float,
    costs: Costs,
) -> dict[str, float]:
    """What two thresholds do to payments of so many days.

    Precision and recall are shares of payments; `money_recall` of fraud's worth that is alerted;
    `money_saved_per_day` that worth less the costs; `fraud_rate_percent` what is let through as
    a share of the value of all that is executed. A precision of no alerts is 0.
    """
    alerted, declined = (scores >= np.float32(limit) for limit in (review, decline))
    bad, worth = fraud == 1, amount_minor / MINOR_PER_MAJOR
    stolen, caught = worth[bad].sum(), worth[alerted & bad].sum()
    spent = costs.review * (alerted & ~declined).sum() + costs.decline * (declined & ~bad).sum()
    found = {
        "alerts_per_day": alerted.sum() / days,
        "review_precision": _share((alerted & bad).sum(), alerted.sum()),
        "review_recall": _share((alerted & bad).sum(), bad.sum()),
        "declines_per_day": declined.sum() / days,
        "decline_precision": _share((declined & bad).sum(), declined.sum()),
        "decline_recall": _share((declined & bad).sum(), bad.sum()),
        "money_recall": _share(caught, stolen),
        "money_saved_per_day": (caught - spent) / days,
        "fraud_rate_percent": 100 * _share(stolen - caught, worth.sum() - caught),
    }
    return {name: float(value) for name, value in found.items()}


def money_curve(
    scores: Float32s, fraud: Int8s, amount_minor: Int64s, days: int, costs: Costs
) -> tuple[Float64s, Float64s, Float64s]:
    """Threshold, alerts a day and money saved a day at every cut, if all alerts are reviewed."""
    ranked = _rank(scores, fraud, amount_minor)
    saved = ranked.caught - costs.review * ranked.count
    return ranked.score, ranked.count / days, saved / days


def parse_costs(text: str) -> Costs:
    """`review=5,decline=25`, either or both; raises ConfigError for anything else."""
    known = {field.name for field in fields(Costs)}
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            raise ConfigError(f"{part!r} is no cost such as review=5") from None
        if name not in known:
            raise ConfigError(f"cost {name!r} is not one of: {', '.join(sorted(known))}")
    return Costs(**given)


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def _rank(scores: Float32s, fraud: Int8s, amount_minor: Int64s) -> _Ranked:
    order = np.argsort(-scores, kind="stable")
    ranked, bad = scores[order], fraud[order] == 1
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)

    def up_to(column: NDArray[Any]) -> Float64s:
        return np.concatenate(([0.0], np.cumsum(column, dtype=np.float64)[last]))

    above = np.nextafter(ranked[0], np.float32(2))
    return _Ranked(
        np.concatenate(([above], ranked[last])).astype(np.float64),
        np.concatenate(([0.0], last + 1.0)),
        up_to(bad),
        up_to(np.where(bad, amount_minor[order], 0) / MINOR_PER_MAJOR),
    )


def _threshold(ranked: _Ranked, place: int) -> float:
    """The place's score; a manifest takes thresholds above 0 and up to 1."""
    least = float(np.finfo(np.float32).tiny)
    return min(max(float(ranked.score[place]), least), 1.0)


def _affordable(ranked: _Ranked, alerts: float) -> int:
    return int(np.searchsorted(ranked.count, alerts, side="right")) - 1


def _within_rate(ranked: _Ranked, percent: float, worth: float) -> int:
    missed = ranked.caught[-1] - ranked.caught
    executed = np.maximum(worth - ranked.caught, 0)  # sums in another order may differ by a bit
    return int(np.flatnonzero(100 * missed <= percent * executed)[0])


def _precise(ranked: _Ranked, review: int) -> int:
    precise = ranked.frauds >= DECLINE_PRECISION * ranked.count
    return int(np.flatnonzero(precise[: review + 1])[-1])


def _cheapest(ranked: _Ranked, costs: Costs) -> tuple[int, int]:
    """The places of review and decline that together save most; decline is above review."""
    spared = costs.review * ranked.count - costs.decline * (ranked.count - ranked.frauds)
    saved = ranked.caught - costs.review * ranked.count + np.maximum.accumulate(spared)
    review = int(np.argmax(saved))
    return review, int(np.argmax(spared[: review + 1]))
