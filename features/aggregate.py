"""History becomes profiles: what was seen of each customer and terminal before an instant.

In comes a `History` in columns and the instant `as_of_us`; out come float32 profiles, a row for
each token. Only transactions of the window before that instant count, and a label counts once its
transaction is older than the label delay: so a profile holds nothing that was not known then, which
is what training on past data needs. Same history in the same order, same bits. Used by backfill,
training and the demo's warm-up alike. Raises ValueError on columns of different lengths. No clock,
no I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.profile import CUSTOMER_PROFILE, FRAUD_RATE_PRIOR, TERMINAL_PROFILE, Layout
from features.vectorize import (
    BY_ECOMMERCE,
    COS,
    HOUR_US,
    HOURS,
    NIGHT_HOURS,
    SIN,
    Float32s,
    Float64s,
    Int8s,
    Int32s,
    Int64s,
    log2_1p_each,
)

DAY_US = HOURS * HOUR_US
WINDOW_DAYS = 28
LABEL_DELAY_DAYS = 7
RECENT_DAYS = 7
FRAUD_RATE_STRENGTH = 10.0
"""As many labels as the prior weighs: a terminal's rate leaves it slowly while labels are few."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """n past transactions in columns, in log order.

    `customer` and `terminal` int32 (n,) are places in the token lists; `event_time_us` int64;
    `amount_minor` int64; `channel` int8; `country` int32 by `country_codes`; `fraud` int8: 1 fraud,
    0 none, -1 where no label is known.
    """

    customer_tokens: Sequence[bytes]
    terminal_tokens: Sequence[bytes]
    customer: Int32s
    terminal: Int32s
    event_time_us: Int64s
    amount_minor: Int64s
    channel: Int8s
    country: Int32s
    fraud: Int8s

    def __post_init__(self) -> None:
        """Raise ValueError if the columns differ in length."""
        n = len(self.customer)
        for name in ("terminal", "event_time_us", "amount_minor", "channel", "country", "fraud"):
            if len(getattr(self, name)) != n:
                msg = f"column {name} has {len(getattr(self, name))} rows, customer has {n}"
                raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.customer)


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """float32 profiles, row by row those of the history's token lists."""

    customers: Float32s
    terminals: Float32s


def number(tokens: Sequence[bytes]) -> tuple[list[bytes], Int32s]:
    """The distinct tokens in order of appearance, and for each token its place, int32 (n,)."""
    place: dict[bytes, int] = {}
    codes = np.array([place.setdefault(token, len(place)) for token in tokens], np.int32)
    return list(place), codes


def aggregate(
    history: History,
    as_of_us: int,
    window_days: int = WINDOW_DAYS,
    label_delay_days: int = LABEL_DELAY_DAYS,
) -> Profiles:
    """The profiles of every token as they stood at `as_of_us`; defaults where nothing was seen."""
    seen_us = history.event_time_us
    rows = np.flatnonzero((seen_us >= as_of_us - window_days * DAY_US) & (seen_us < as_of_us))
    return Profiles(
        _customers(history, rows, as_of_us),
        _terminals(history, rows, as_of_us, label_delay_days),
    )


def _customers(history: History, rows: Int64s, as_of_us: int) -> Float32s:
    who, n = history.customer[rows], len(history.customer_tokens)
    amount = history.amount_minor[rows].astype(np.float64)
    hour = history.event_time_us[rows] // HOUR_US % HOURS
    count = _total(who, None, n)
    mean = _share(who, amount, n, count)
    spread = _share(who, (amount - mean[who]) ** 2, n, count)
    largest = np.zeros(n)
    np.maximum.at(largest, who, amount)
    return _table(
        CUSTOMER_PROFILE,
        count,
        {
            "known": np.ones(n),
            "count_log2": log2_1p_each(count),
            "tx_per_day": _per_day(history, rows, who, count, as_of_us),
            "amount_mean": mean,
            "amount_std": np.sqrt(spread),
            "amount_mean_log2": log2_1p_each(mean),
            "amount_max_log2": log2_1p_each(largest),
            "night_share": _share(who, hour < NIGHT_HOURS, n, count),
            "ecommerce_share": _share(who, history.channel[rows] == BY_ECOMMERCE, n, count),
            "hour_sin": _share(who, SIN[hour], n, count),
            "hour_cos": _share(who, COS[hour], n, count),
            "country": _most_frequent(who, history.country[rows], n),
        },
    )


def _terminals(history: History, rows: Int64s, as_of_us: int, label_delay_days: int) -> Float32s:
    where, n = history.terminal[rows], len(history.terminal_tokens)
    amount = history.amount_minor[rows].astype(np.float64)
    count = _total(where, None, n)
    mean = _share(where, amount, n, count)
    known_before_us = as_of_us - label_delay_days * DAY_US
    seen_us, fraud = history.event_time_us[rows], history.fraud[rows]
    labelled = (fraud >= 0) & (seen_us < known_before_us)
    recent = labelled & (seen_us >= known_before_us - RECENT_DAYS * DAY_US)
    return _table(
        TERMINAL_PROFILE,
        count,
        {
            "known": np.ones(n),
            "count_log2": log2_1p_each(count),
            "tx_per_day": _per_day(history, rows, where, count, as_of_us),
            "amount_mean_log2": log2_1p_each(mean),
            "fraud_rate": _fraud_rate(where, fraud, labelled, n),
            "fraud_rate_recent": _fraud_rate(where, fraud, recent, n),
        },
    )


def _fraud_rate(where: Int32s, fraud: Int8s, counted: NDArray[np.bool_], n: int) -> Float64s:
    """(frauds + prior * strength) / (labels + strength): a rate that starts at the prior."""
    labels = _total(where[counted], None, n)
    frauds = _total(where[counted], fraud[counted], n)
    prior = FRAUD_RATE_PRIOR * FRAUD_RATE_STRENGTH
    return (frauds + prior) / (labels + FRAUD_RATE_STRENGTH)


def _per_day(
    history: History, rows: Int64s, who: Int32s, count: Float64s, as_of_us: int
) -> Float64s:
    """Transactions a day since the first in the window; under a day counts as one day."""
    first = np.full(len(count), as_of_us, np.int64)
    np.minimum.at(first, who, history.event_time_us[rows])
    return count / np.maximum((as_of_us - first) / DAY_US, 1.0)


def _most_frequent(who: Int32s, country: Int32s, n: int) -> Float64s:
    """Each entity's most frequent known country code (the lowest of equals), 0 where none."""
    known = country > 0
    pairs, count = np.unique(who[known].astype(np.int64) << 16 | country[known], return_counts=True)
    best = np.zeros(n)
    # Ascending by count, then descending by code: what is written last stays.
    order = np.lexsort((-pairs, count))
    best[pairs[order] >> 16] = pairs[order] & 0xFFFF
    return best


def _total(who: Int32s, weight: NDArray[np.generic] | None, n: int) -> Float64s:
    """Sum of the weights (of ones) by entity, float64 (n,), added in the history's order."""
    return np.bincount(who, weight, n).astype(np.float64)


def _share(who: Int32s, value: NDArray[np.generic], n: int, count: Float64s) -> Float64s:
    """Mean of a value by entity; 0 where there is none."""
    return _total(who, value, n) / np.maximum(count, 1.0)


def _table(layout: Layout, count: Float64s, columns: dict[str, Float64s]) -> Float32s:
    """Put the columns into the layout's order; entities without history get its defaults."""
    table = np.column_stack([columns[column.name] for column in layout.columns])
    return np.where(count[:, np.newaxis] > 0, table, layout.defaults).astype(np.float32)
