"""The feature contract: which numbers a model reads, in which order, and what each one means.

`FEATURES` declares every feature once: whose it is, from which log, by which aggregation, over
which sliding window, behind which delay, and its value where nothing is known; `riskwire features
list` prints it. `Timing` says how late a record may come and how far apart logs may run. Both make
the contract id: a model's manifest names the id that it was trained on, a score the id that it was
computed with, and Redis keys carry it, so that changed code never reads another's state. Imports
nothing that acts.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Entity = Literal["transaction", "customer", "terminal"]
LogName = Literal["transactions", "labels"]

KERNEL_VERSION = 3
"""Raised with every change of the code that gives other numbers for the same logs."""

DAY_US = 86_400_000_000
LABEL_DELAY_DAYS = 7
"""An outcome of a terminal counts once its transaction is so old, however early it is known."""
LONGEST_DAYS = 180
MEDIAN_LAST = 127


@dataclass(frozen=True, slots=True)
class Timing:
    """How late and how far apart records may be; the time rules of DESIGN in two numbers.

    A record is visible from max(its own time, its log's running maximum - lateness) on. A log must
    have got past t - skew before a vector at t is final. Lateness is smaller than the skew.
    """

    lateness_us: int
    skew_us: int

    def __post_init__(self) -> None:
        """Raise ValueError unless 0 <= lateness < skew <= the label delay."""
        if not 0 <= self.lateness_us < self.skew_us <= LABEL_DELAY_DAYS * DAY_US:
            msg = f"needs 0 <= lateness < skew <= {LABEL_DELAY_DAYS} days, got {self}"
            raise ValueError(msg)


LIVE = Timing(30_000_000, 60_000_000)
REPLAY = Timing(30_000_000, DAY_US)
"""For replays at full speed, where a second is days of events."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the vector.

    `window_days` 0 where there is no window; `delay_days` how old what counts must at least be;
    `default` its value where nothing is known; `reason` the code by which an alert names it
    (several may share one).
    """

    name: str
    entity: Entity
    logs: tuple[LogName, ...]
    aggregation: str
    window_days: int
    delay_days: int
    default: float
    unit: str
    reason: str
    doc: str


_OWN: tuple[LogName, ...] = ("transactions",)
_BOTH: tuple[LogName, ...] = ("transactions", "labels")
_DELAY = LABEL_DELAY_DAYS


def _customer(days: int) -> tuple[Feature, Feature]:
    return (
        Feature(f"customer_count_{days}d", "customer", _OWN, "count", days, 0, 1.0, "1",
                "CUSTOMER_ACTIVITY", f"the customer's transactions of {days} d, this one included"),
        Feature(f"customer_mean_{days}d", "customer", _OWN, "mean", days, 0, 0.0, "major units",
                "CUSTOMER_SPENDING", f"their mean amount over {days} d, this one included"),
    )  # fmt: skip


def _terminal(days: int) -> tuple[Feature, Feature]:
    return (
        Feature(f"terminal_count_{days}d", "terminal", _OWN, "count", days, _DELAY, 0.0, "1",
                "TERMINAL_ACTIVITY", f"transactions at the terminal in {days} d"),
        Feature(f"terminal_risk_{days}d", "terminal", _BOTH, "share", days, _DELAY, 0.0, "share",
                "TERMINAL_RISK", f"share of frauds among them, {days} d"),
    )  # fmt: skip


def _frauds(days: int) -> tuple[Feature, Feature]:
    return (
        Feature(f"terminal_frauds_{days}d", "terminal", _BOTH, "count", days, _DELAY, 0.0, "1",
                "TERMINAL_RISK", f"frauds at the terminal in {days} d"),
        Feature(f"terminal_fraud_rate_{days}d", "terminal", _BOTH, "share", days, _DELAY, 0.0,
                "share", "TERMINAL_RISK", f"share of frauds at the terminal, {days} d"),
    )  # fmt: skip


FEATURES: tuple[Feature, ...] = (
    Feature("amount", "transaction", (), "value", 0, 0, 0.0, "major units", "AMOUNT_HIGH",
            "amount in major units (minor units / 100)"),
    Feature("weekend", "transaction", (), "value", 0, 0, 0.0, "flag", "TIME_OF_WEEK",
            "1 on Saturday and Sunday, UTC"),
    Feature("night", "transaction", (), "value", 0, 0, 0.0, "flag", "TIME_OF_DAY",
            "1 until 06:59:59 UTC"),
    *_customer(1), *_customer(7), *_customer(30),
    *_terminal(1), *_terminal(7), *_terminal(30),
    Feature("amount_over_mean_30d", "customer", _OWN, "ratio", 30, 0, 1.0, "1", "AMOUNT_UNUSUAL",
            "amount over the customer's mean of 30 d without it"),
    Feature("amount_over_mean_longest", "customer", _OWN, "ratio", LONGEST_DAYS, 0, 1.0, "1",
            "AMOUNT_UNUSUAL", "amount over the customer's mean of the longest window without it"),
    Feature("amount_over_median", "customer", _OWN, "ratio", LONGEST_DAYS, 0, 1.0, "1",
            "AMOUNT_UNUSUAL",
            f"amount over the median of the customer's {MEDIAN_LAST} transactions before it"),
    Feature("terminal_last_fraud", "terminal", _BOTH, "last", 30, _DELAY, 0.0, "flag",
            "TERMINAL_RISK", "1 where the terminal's newest counted transaction was a fraud"),
    Feature("terminal_fraud_run_days", "terminal", _BOTH, "run", 30, _DELAY, 0.0, "days",
            "TERMINAL_RISK", "age of the unbroken run of frauds that ends with it"),
    *_frauds(3), *_frauds(14), *_frauds(21),
)  # fmt: skip

WIDTH = len(FEATURES)
NAMES = tuple(feature.name for feature in FEATURES)


def contract_id(timing: Timing) -> str:
    """First 16 hexadecimal digits of a SHA-256; documentation and reason codes do not enter."""
    defined = [
        (f.name, f.entity, f.logs, f.aggregation, f.window_days, f.delay_days, f.default, f.unit)
        for f in FEATURES
    ]
    bounds = (LABEL_DELAY_DAYS, LONGEST_DAYS, MEDIAN_LAST)
    text = repr((KERNEL_VERSION, defined, bounds, timing.lateness_us, timing.skew_us))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


CONTRACT_ID = contract_id(LIVE)


def defaults() -> NDArray[np.float32]:
    """The features' defaults in order, float32 (WIDTH,)."""
    return np.array([feature.default for feature in FEATURES], np.float32)
