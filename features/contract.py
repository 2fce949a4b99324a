"""The feature contract: which numbers a model reads, in which order, and what each one means.

`FEATURES` is the order of the vector's columns. `CONTRACT_ID` stands for everything that decides
their values: names, sources, units, defaults, the profiles' layouts, the channels' order and the
kernel's version. A model's manifest names the id that it was trained on; a score or an alert names
the id that it was computed with. A feature depends on the transaction and its profiles only: no
clock, no arrival order, no random source. Imports nothing that acts.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.profile import CUSTOMER_PROFILE, FRAUD_RATE_PRIOR, TERMINAL_PROFILE

Source = Literal["transaction", "customer", "terminal"]

KERNEL_VERSION = 1
"""Raised with every change of the code that gives other numbers for the same history and input."""

CHANNELS = ("UNKNOWN", "CHIP", "CONTACTLESS", "MAGSTRIPE", "ECOMMERCE", "ATM", "TRANSFER")
"""The channel column holds indices into this: the order of the Transaction schema's symbols."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the vector.

    `source` is the profile that it needs besides the transaction; `default` its value where that
    profile has no history; `reason` the code by which an alert names it (several may share one).
    """

    name: str
    source: Source
    reason: str
    unit: str
    default: float
    doc: str


FEATURES: tuple[Feature, ...] = (
    Feature("amount_log2", "transaction", "AMOUNT_HIGH", "log2", 0.0,
            "log2(1 + amount in minor units)"),
    Feature("hour_sin", "transaction", "TIME_OF_DAY", "1", 0.0,
            "sine of the UTC hour's angle on a 24-hour dial"),
    Feature("hour_cos", "transaction", "TIME_OF_DAY", "1", 0.0, "cosine of that angle"),
    Feature("night", "transaction", "TIME_OF_DAY", "flag", 0.0, "1 from 0 to 6 h UTC"),
    Feature("weekend", "transaction", "TIME_OF_WEEK", "flag", 0.0, "1 on Saturday and Sunday, UTC"),
    Feature("ecommerce", "transaction", "CHANNEL", "flag", 0.0, "1 for e-commerce"),
    Feature("atm", "transaction", "CHANNEL", "flag", 0.0, "1 for a cash machine"),
    Feature("magstripe", "transaction", "CHANNEL", "flag", 0.0, "1 for a magnetic stripe"),
    Feature("channel_other", "transaction", "CHANNEL", "flag", 0.0,
            "1 for a transfer or an unknown channel"),
    Feature("customer_known", "customer", "CUSTOMER_NEW", "flag", 0.0,
            "1 where the customer has history"),
    Feature("customer_count_log2", "customer", "CUSTOMER_HISTORY", "log2", 0.0,
            "log2(1 + transactions of the customer's history)"),
    Feature("customer_tx_per_day", "customer", "CUSTOMER_ACTIVITY", "1/day", 0.0,
            "the customer's transactions a day"),
    Feature("amount_over_mean_log2", "customer", "AMOUNT_UNUSUAL", "log2", 0.0,
            "log2 of the amount over the customer's mean"),
    Feature("amount_z", "customer", "AMOUNT_UNUSUAL", "std", 0.0,
            "distance from the customer's mean in standard deviations, -10 to 10"),
    Feature("amount_over_max_log2", "customer", "AMOUNT_RECORD", "log2", 0.0,
            "log2 of the amount over the customer's largest"),
    Feature("hour_unusual", "customer", "HOUR_UNUSUAL", "1", 0.0,
            "1 - the hour's direction projected on the customer's mean direction, 0 to 2"),
    Feature("night_unusual", "customer", "HOUR_UNUSUAL", "share", 0.0,
            "at night: 1 - the customer's share of night transactions"),
    Feature("ecommerce_unusual", "customer", "CHANNEL_UNUSUAL", "share", 0.0,
            "for e-commerce: 1 - the customer's share of e-commerce"),
    Feature("country_foreign", "customer", "COUNTRY_FOREIGN", "flag", 0.0,
            "1 where the country is known and not the customer's usual one"),
    Feature("terminal_known", "terminal", "TERMINAL_NEW", "flag", 0.0,
            "1 where the terminal has history"),
    Feature("terminal_count_log2", "terminal", "TERMINAL_HISTORY", "log2", 0.0,
            "log2(1 + transactions of the terminal's history)"),
    Feature("terminal_tx_per_day", "terminal", "TERMINAL_ACTIVITY", "1/day", 0.0,
            "the terminal's transactions a day"),
    Feature("amount_over_terminal_log2", "terminal", "AMOUNT_UNUSUAL_AT_TERMINAL", "log2", 0.0,
            "log2 of the amount over the terminal's mean"),
    Feature("terminal_fraud_rate", "terminal", "TERMINAL_RISK", "share", FRAUD_RATE_PRIOR,
            "smoothed share of frauds at the terminal, by labels of a delay ago"),
    Feature("terminal_fraud_rate_recent", "terminal", "TERMINAL_RISK", "share", FRAUD_RATE_PRIOR,
            "the same over the last labelled days"),
)  # fmt: skip

WIDTH = len(FEATURES)
NAMES = tuple(feature.name for feature in FEATURES)


def _contract_id() -> str:
    """First 16 hexadecimal digits of a SHA-256; documentation and reason codes do not enter."""
    defined = [(f.name, f.source, f.unit, f.default) for f in FEATURES]
    layouts = (CUSTOMER_PROFILE.id, TERMINAL_PROFILE.id)
    text = repr((KERNEL_VERSION, defined, layouts, CHANNELS))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


CONTRACT_ID = _contract_id()


def defaults() -> NDArray[np.float32]:
    """The features' defaults in order, float32 (WIDTH,)."""
    return np.array([feature.default for feature in FEATURES], np.float32)
