"""The join: a transaction's own fields and its two profiles become its feature vector.

`vectorize` is the only implementation in use, for the stream, for training and for backfill alike;
its rows depend neither on each other nor on their order. `plain` says the same of one row in
readable Python; the tests hold both to the same bits. All arithmetic is float64 made of + - * / and
frexp, which every CPU rounds alike (a libm's logarithm is not), and each feature is rounded to
float32 once. Columns that do not fit together are a ValueError; nothing fails on values. Imports no
clock, no random source.
"""

import math
from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

from features.contract import WIDTH
from features.profile import CUSTOMER_PROFILE, TERMINAL_PROFILE

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Int8s = NDArray[np.int8]
UInt8s = NDArray[np.uint8]

HOUR_US = 3_600_000_000
HOURS = 24
NIGHT_HOURS = 6
# 1970-01-01 was a Thursday: with three days added, Saturday and Sunday are 5 and 6.
EPOCH_WEEKDAY = 3
SATURDAY = 5
WEEK_DAYS = 7
STD_FLOOR_MINOR = 100.0
STD_FLOOR_SHARE = 0.1
Z_MAX = 10.0
COUNTRY_BYTES = 2

# Rounded, so that no platform's own sine gets into a vector.
SIN = np.array([round(math.sin(math.tau * hour / HOURS), 6) for hour in range(HOURS)])
COS = np.array([round(math.cos(math.tau * hour / HOURS), 6) for hour in range(HOURS)])
SQRT_HALF = 0.7071067811865476
TWO_OVER_LN2 = 2.8853900817779268

BY_UNKNOWN, BY_CHIP, BY_CONTACTLESS, BY_MAGSTRIPE, BY_ECOMMERCE, BY_ATM, BY_TRANSFER = range(7)

# The order of FEATURES and of the profiles' columns; numbers, because a compiled loop has no names.
(
    AMOUNT_LOG2, HOUR_SIN, HOUR_COS, NIGHT, WEEKEND, ECOMMERCE, ATM, MAGSTRIPE, CHANNEL_OTHER,
    CUSTOMER_KNOWN, CUSTOMER_COUNT_LOG2, CUSTOMER_TX_PER_DAY,
    AMOUNT_OVER_MEAN_LOG2, AMOUNT_Z, AMOUNT_OVER_MAX_LOG2,
    HOUR_UNUSUAL, NIGHT_UNUSUAL, ECOMMERCE_UNUSUAL, COUNTRY_FOREIGN,
    TERMINAL_KNOWN, TERMINAL_COUNT_LOG2, TERMINAL_TX_PER_DAY,
    AMOUNT_OVER_TERMINAL_LOG2, TERMINAL_FRAUD_RATE, TERMINAL_FRAUD_RATE_RECENT,
) = range(25)  # fmt: skip
(
    C_KNOWN, C_COUNT_LOG2, C_TX_PER_DAY, C_AMOUNT_MEAN, C_AMOUNT_STD, C_AMOUNT_MEAN_LOG2,
    C_AMOUNT_MAX_LOG2, C_NIGHT_SHARE, C_ECOMMERCE_SHARE, C_HOUR_SIN, C_HOUR_COS, C_COUNTRY,
) = range(12)  # fmt: skip
(
    T_KNOWN, T_COUNT_LOG2, T_TX_PER_DAY, T_AMOUNT_MEAN_LOG2, T_FRAUD_RATE, T_FRAUD_RATE_RECENT,
) = range(6)  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def log2_1p(value: float) -> float:
    """log2(1 + value) for value >= 0, within 1e-9; log2 m = 2/ln 2 * atanh((m - 1) / (m + 1))."""
    mantissa, exponent = math.frexp(1.0 + value)
    if mantissa < SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11)))))
    return exponent + TWO_OVER_LN2 * s * series


@njit(nogil=True, cache=True)
def log2_1p_each(values: Float64s) -> Float64s:
    """`log2_1p` of each value, float64 (n,)."""
    out = np.empty(len(values))
    for i in range(len(values)):
        out[i] = log2_1p(values[i])
    return out


def vectorize(
    event_time_us: Int64s,
    amount_minor: Int64s,
    channel: Int8s,
    country: Int32s,
    customers: Float32s,
    terminals: Float32s,
) -> Float32s:
    """The feature matrix, float32 (n, WIDTH), C-contiguous, columns in the order of FEATURES.

    `event_time_us` int64, microseconds since 1970 UTC; `amount_minor` int64 >= 0; `channel` int8,
    index into CHANNELS; `country` int32 by `country_codes`; all (n,). `customers` and `terminals`
    are float32 profiles, one row for each transaction. Raises ValueError if lengths differ.
    """
    n = len(event_time_us)
    shapes = (amount_minor.shape, channel.shape, country.shape, customers.shape, terminals.shape)
    wanted = ((n,), (n,), (n,), (n, CUSTOMER_PROFILE.width), (n, TERMINAL_PROFILE.width))
    if shapes != wanted:
        msg = f"columns of {n} transactions have shapes {shapes}, not {wanted}"
        raise ValueError(msg)
    out = np.empty((n, WIDTH), np.float32)
    _join(event_time_us, amount_minor, channel, country, customers, terminals, out)
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _join(
    event_time_us: Int64s,
    amount_minor: Int64s,
    channel: Int8s,
    country: Int32s,
    customers: Float32s,
    terminals: Float32s,
    out: Float32s,
) -> None:
    for i in range(len(out)):
        row, customer, terminal = out[i], customers[i], terminals[i]
        hours = event_time_us[i] // HOUR_US
        hour = hours % HOURS
        weekday = (hours // HOURS + EPOCH_WEEKDAY) % WEEK_DAYS
        amount = float(amount_minor[i])
        amount_log2 = log2_1p(amount)
        how = channel[i]

        row[AMOUNT_LOG2] = amount_log2
        row[HOUR_SIN] = SIN[hour]
        row[HOUR_COS] = COS[hour]
        row[NIGHT] = hour < NIGHT_HOURS
        row[WEEKEND] = weekday >= SATURDAY
        row[ECOMMERCE] = how == BY_ECOMMERCE
        row[ATM] = how == BY_ATM
        row[MAGSTRIPE] = how == BY_MAGSTRIPE
        row[CHANNEL_OTHER] = how == BY_UNKNOWN or how == BY_TRANSFER  # noqa: PLR1714

        row[CUSTOMER_KNOWN] = customer[C_KNOWN]
        row[CUSTOMER_COUNT_LOG2] = customer[C_COUNT_LOG2]
        row[CUSTOMER_TX_PER_DAY] = customer[C_TX_PER_DAY]
        if customer[C_KNOWN] > 0:
            mean, std = float(customer[C_AMOUNT_MEAN]), float(customer[C_AMOUNT_STD])
            z = (amount - mean) / max(std, STD_FLOOR_SHARE * mean, STD_FLOOR_MINOR)
            along = SIN[hour] * customer[C_HOUR_SIN] + COS[hour] * customer[C_HOUR_COS]
            home = customer[C_COUNTRY]
            row[AMOUNT_OVER_MEAN_LOG2] = amount_log2 - customer[C_AMOUNT_MEAN_LOG2]
            row[AMOUNT_Z] = min(max(z, -Z_MAX), Z_MAX)
            row[AMOUNT_OVER_MAX_LOG2] = amount_log2 - customer[C_AMOUNT_MAX_LOG2]
            row[HOUR_UNUSUAL] = 1.0 - along
            row[NIGHT_UNUSUAL] = (hour < NIGHT_HOURS) * (1.0 - customer[C_NIGHT_SHARE])
            row[ECOMMERCE_UNUSUAL] = (how == BY_ECOMMERCE) * (1.0 - customer[C_ECOMMERCE_SHARE])
            row[COUNTRY_FOREIGN] = country[i] != 0 and home != 0 and country[i] != home
        else:
            row[AMOUNT_OVER_MEAN_LOG2 : COUNTRY_FOREIGN + 1] = 0.0

        row[TERMINAL_KNOWN] = terminal[T_KNOWN]
        row[TERMINAL_COUNT_LOG2] = terminal[T_COUNT_LOG2]
        row[TERMINAL_TX_PER_DAY] = terminal[T_TX_PER_DAY]
        row[AMOUNT_OVER_TERMINAL_LOG2] = 0.0
        if terminal[T_KNOWN] > 0:
            row[AMOUNT_OVER_TERMINAL_LOG2] = amount_log2 - terminal[T_AMOUNT_MEAN_LOG2]
        row[TERMINAL_FRAUD_RATE] = terminal[T_FRAUD_RATE]
        row[TERMINAL_FRAUD_RATE_RECENT] = terminal[T_FRAUD_RATE_RECENT]


def country_codes(data: UInt8s, start: Int64s, length: Int32s) -> Int32s:
    """Country codes as numbers, int32 (n,): 256 * first + second byte, 0 unless two bytes long.

    The strings lie in the uint8 buffer `data` at `start` int64 (n,) with `length` int32 (n,).
    """
    out = np.zeros(len(length), np.int32)
    _country_codes(data, start, length, out)
    return out


@njit(nogil=True, cache=True)
def _country_codes(data: UInt8s, start: Int64s, length: Int32s, out: Int32s) -> None:
    for i in range(len(out)):
        if length[i] == COUNTRY_BYTES:
            out[i] = data[start[i]] * 256 + data[start[i] + 1]


def country_code(text: str) -> int:
    """The number of one country code, as `country_codes` gives it; ValueError unless two bytes."""
    code = text.encode()
    if len(code) != COUNTRY_BYTES:
        raise ValueError(f"a country code has {COUNTRY_BYTES} bytes, not {text!r}")
    return code[0] * 256 + code[1]


def plain(
    event_time_us: int,
    amount_minor: int,
    channel: str,
    country: int,
    customer: Mapping[str, float],
    terminal: Mapping[str, float],
) -> dict[str, float]:
    """The features of one transaction by name, float64 before their rounding to float32.

    `customer` and `terminal` are profiles by column name. The readable twin of `vectorize`.
    """
    hours = event_time_us // HOUR_US
    hour, weekday = hours % HOURS, (hours // HOURS + EPOCH_WEEKDAY) % WEEK_DAYS
    sine, cosine = float(SIN[hour]), float(COS[hour])
    night, ecommerce = float(hour < NIGHT_HOURS), float(channel == "ECOMMERCE")
    amount_log2 = log2_1p.py_func(float(amount_minor))
    std = max(customer["amount_std"], 0.1 * customer["amount_mean"], 100.0)
    z = (amount_minor - customer["amount_mean"]) / std
    along = sine * customer["hour_sin"] + cosine * customer["hour_cos"]
    against_customer = {
        "amount_over_mean_log2": amount_log2 - customer["amount_mean_log2"],
        "amount_z": min(max(z, -10.0), 10.0),
        "amount_over_max_log2": amount_log2 - customer["amount_max_log2"],
        "hour_unusual": 1.0 - along,
        "night_unusual": night * (1.0 - customer["night_share"]),
        "ecommerce_unusual": ecommerce * (1.0 - customer["ecommerce_share"]),
        "country_foreign": float(0 != country != customer["country"] != 0),
    }
    against_terminal = {"amount_over_terminal_log2": amount_log2 - terminal["amount_mean_log2"]}
    return {
        "amount_log2": amount_log2,
        "hour_sin": sine,
        "hour_cos": cosine,
        "night": night,
        "weekend": float(weekday >= SATURDAY),
        "ecommerce": ecommerce,
        "atm": float(channel == "ATM"),
        "magstripe": float(channel == "MAGSTRIPE"),
        "channel_other": float(channel in {"TRANSFER", "UNKNOWN"}),
        "customer_known": customer["known"],
        "customer_count_log2": customer["count_log2"],
        "customer_tx_per_day": customer["tx_per_day"],
        **(against_customer if customer["known"] else dict.fromkeys(against_customer, 0.0)),
        "terminal_known": terminal["known"],
        "terminal_count_log2": terminal["count_log2"],
        "terminal_tx_per_day": terminal["tx_per_day"],
        **(against_terminal if terminal["known"] else dict.fromkeys(against_terminal, 0.0)),
        "terminal_fraud_rate": terminal["fraud_rate"],
        "terminal_fraud_rate_recent": terminal["fraud_rate_recent"],
    }
