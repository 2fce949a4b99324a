"""A small problem that resembles payments: rare frauds, heavy tails, flags, ties, a threshold."""

import numpy as np
from numpy.typing import NDArray

WIDTH = 8


def rows(seed: int, n: int, drift: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Rows float32 (n, WIDTH) with their truth int8 (n,); `drift` moves what is suspicious."""
    rng = np.random.default_rng(seed)
    amount = np.round(rng.lognormal(3, 1, n), 2)
    ratio = rng.lognormal(0, 0.5, n)
    risk = np.where(rng.random(n) < 0.03, rng.random(n), 0)
    count = rng.poisson(3, n)
    night = rng.random(n) < 0.2
    noise = rng.standard_normal((n, WIDTH - 5)) * [1, 1e3, 1e-3]
    logit = -6 + 4 * (amount > 150 + drift) + 8 * (risk > 0.5) + 3 * (ratio > 2.5) + night
    fraud = rng.random(n) < 1 / (1 + np.exp(-logit))
    columns = np.column_stack([amount, ratio, risk, count, night, noise])
    return columns.astype(np.float32), fraud.astype(np.int8)
