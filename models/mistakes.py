"""Prediction-error analysis: which frauds a model misses, and which honest payments it stops.

In: an evaluation. Out: counts by amount, by the card's age, by hour and by the terminal's risk, and
by kind, all over the judged payments and at the thresholds in use. Pure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.contract import NAMES
from models.evaluate import Data, Evaluation, alerted
from models.handbook import BAD_CUSTOMER, BAD_TERMINAL, LARGE_AMOUNT, SECOND_US, TESTED_CARD
from models.threshold import MINOR_PER_MAJOR

Bools = NDArray[np.bool_]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

SCENARIOS = {
    LARGE_AMOUNT: "large amount",
    BAD_TERMINAL: "compromised terminal",
    BAD_CUSTOMER: "stolen card",
    TESTED_CARD: "tested card",
}
UNUSUAL = 3.0
"""Times the customer's own mean of the longest window: what an amount is called unusual from."""
HOUR_US = 3600 * SECOND_US
DAY_HOURS = 24
AMOUNTS = (0, 25, 50, 75, 100, 150, 220)
AGES_DAYS = (0, 30, 60, 120, 130, 140, 150)
HOURS = tuple(range(0, DAY_HOURS, 3))
RISKS = (0, 1e-9, 0.2, 0.4, 0.6, 0.8, 1)


@dataclass(frozen=True, slots=True)
class Group:
    """Payments of one kind; money in major units."""

    name: str
    frauds: int
    missed: int
    missed_money: float
    honest: int
    stopped: int

    @property
    def missed_share(self) -> float:
        """Of the group's frauds."""
        return self.missed / self.frauds if self.frauds else 0.0

    @property
    def stopped_share(self) -> float:
        """Of the group's honest payments."""
        return self.stopped / self.honest if self.honest else 0.0


@dataclass(frozen=True, slots=True)
class Mistakes:
    """All groups: `by` a property in bins; `missed` and `stopped` by kind."""

    everything: Group
    by: dict[str, tuple[Group, ...]]
    missed: tuple[Group, ...]
    stopped: tuple[Group, ...]


def mistakes(evaluation: Evaluation) -> Mistakes:
    """What the chosen model gets wrong."""
    data, stops = evaluation.data, alerted(evaluation)
    group = _Groups(data, stops)
    return Mistakes(
        group("all", np.ones(len(stops), np.bool_)),
        {
            name: _in_bins(values, edges, group)
            for name, (values, edges) in _properties(data).items()
        },
        _kinds_of_fraud(data, group),
        _kinds_of_honest(data, group),
    )


class _Groups:
    """Counts over any subset of the judged payments."""

    def __init__(self, data: Data, stops: Bools) -> None:
        rows = data.together
        self._fraud = data.payments.fraud[rows] == 1
        self._stops = stops
        self._amount = data.payments.amount_minor[rows] / MINOR_PER_MAJOR

    def __call__(self, name: str, inside: Bools) -> Group:
        fraud, missed = self._fraud & inside, self._fraud & inside & ~self._stops
        honest = inside & ~self._fraud
        return Group(
            name,
            int(fraud.sum()),
            int(missed.sum()),
            float(self._amount[missed].sum()),
            int(honest.sum()),
            int((honest & self._stops).sum()),
        )


def _properties(data: Data) -> dict[str, tuple[Float64s, tuple[float, ...]]]:
    """Each judged payment's properties, and the edges of their bins; the last bin is open."""
    rows, payments = data.together, data.payments
    customers, first = np.unique(payments.customer, return_index=True)
    began_us = np.zeros(int(customers[-1]) + 1, np.int64)
    began_us[customers] = payments.event_time_us[first]
    time_us = payments.event_time_us[rows]
    age_days = (time_us - began_us[payments.customer[rows]]) / (DAY_HOURS * HOUR_US)
    hour = (time_us // HOUR_US % DAY_HOURS).astype(np.float64)
    risk = _feature(data, "terminal_risk_30d")
    return {
        "Amount": (payments.amount_minor[rows] / MINOR_PER_MAJOR, AMOUNTS),
        "Age of card, days": (age_days, AGES_DAYS),
        "Hour (UTC)": (hour, HOURS),
        "Terminal's known fraud share": (risk, RISKS),
    }


def _in_bins(values: Float64s, edges: tuple[float, ...], group: _Groups) -> tuple[Group, ...]:
    """The groups between edges, named by the lower one; those without payments are left out."""
    named = ["> 0" if 0 < edge < 1e-6 else f"{edge:g}" for edge in edges]
    ends = (*edges[1:], np.inf)
    groups = (
        group(name, (values >= low) & (values < high))
        for name, low, high in zip(named, edges, ends, strict=True)
    )
    return tuple(one for one in groups if one.frauds or one.honest)


def _feature(data: Data, name: str) -> Float64s:
    column: Float64s = data.matrix[data.together, NAMES.index(name)].astype(np.float64)
    return column


def _kinds_of_fraud(data: Data, group: _Groups) -> tuple[Group, ...]:
    scenario = data.payments.scenario[data.together]
    warned = _feature(data, "terminal_last_fraud") == 1
    unusual = _feature(data, "amount_over_mean_longest") >= UNUSUAL
    kinds = (
        ("large amount", scenario == LARGE_AMOUNT),
        ("compromised terminal, no label yet", (scenario == BAD_TERMINAL) & ~warned),
        ("compromised terminal, label known", (scenario == BAD_TERMINAL) & warned),
        ("stolen card, usual amount", (scenario == BAD_CUSTOMER) & ~unusual),
        ("stolen card, unusual amount", (scenario == BAD_CUSTOMER) & unusual),
        ("tested card", scenario == TESTED_CARD),
    )
    groups = (group(name, inside) for name, inside in kinds)
    return tuple(one for one in groups if one.frauds)


def _kinds_of_honest(data: Data, group: _Groups) -> tuple[Group, ...]:
    warned = _feature(data, "terminal_last_fraud") == 1
    unusual = _feature(data, "amount_over_mean_longest") >= UNUSUAL
    kinds = (
        ("terminal's newest label is a fraud", warned & ~unusual),
        ("unusual amount for the customer", unusual & ~warned),
        ("both", unusual & warned),
        ("neither", ~unusual & ~warned),
    )
    return tuple(group(name, inside) for name, inside in kinds)
