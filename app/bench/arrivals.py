"""When transactions are due: evenly, by chance, or three times as fast for a while.

In: how many, at what rate. Out: µs from the first due time on, int64 (n,), ascending; the same for
the same seed. Pure.
"""

from typing import Literal, cast, get_args

import numpy as np

from app.errors import ConfigError
from app.records import Int64s

Arrivals = Literal["constant", "poisson", "burst"]
BURST_FACTOR, BURST_S, BURST_AT = 3.0, 2.0, 0.3
"""How many times the rate, for how long, and after what share of the run it begins."""
WINDOW_S = 0.1
"""The course of a run is told in windows so long, by due time."""


def checked(text: str) -> Arrivals:
    """The arrivals of that name; raises ConfigError."""
    if text not in get_args(Arrivals):
        raise ConfigError(f"no such arrivals: {text}; there are {', '.join(get_args(Arrivals))}")
    return cast("Arrivals", text)


def count(arrivals: Arrivals, rate: float, seconds: float) -> int:
    """How many come in so many seconds."""
    more = (BURST_FACTOR - 1.0) * min(BURST_S, seconds) if arrivals == "burst" else 0.0
    return int(rate * (seconds + more))


def due_us(arrivals: Arrivals, n: int, rate: float, seed: int = 0) -> Int64s:
    """When each of `n` is due at `rate` a second.

    `poisson` has exponential gaps of that mean. `burst` is even but for BURST_S, in which
    BURST_FACTOR times as many come.
    """
    number = np.arange(n)
    if arrivals == "poisson":
        gaps = np.random.default_rng(seed).exponential(1.0 / rate, n)
        at_s = np.cumsum(gaps) - gaps[:1]
    elif arrivals == "burst":
        begin_s, end_s = burst_s(n, rate)
        many = number - rate * begin_s
        inside = rate * BURST_FACTOR * (end_s - begin_s)
        at_s = np.where(
            many < 0,
            number / rate,
            np.where(
                many < inside,
                begin_s + many / (rate * BURST_FACTOR),
                end_s + (many - inside) / rate,
            ),
        )
    else:
        at_s = number / rate
    return (at_s * 1e6).astype(np.int64)


def burst_s(n: int, rate: float) -> tuple[float, float]:
    """From when to when the burst lasts, seconds from the first due time on."""
    seconds = n / rate
    length = min(BURST_S, seconds / (BURST_FACTOR + 1.0))
    begin = BURST_AT * (seconds - (BURST_FACTOR - 1.0) * length)
    return begin, begin + length
