"""The Mersenne Twister as NumPy's RandomState and Python's random draw from it, compiled.

A generator is a state: int64 (STATE,), 624 words of 32 bits and the place of the next one, made
here by `new_state` and seeded in place. Seeded alike, each function gives exactly the numbers of
its namesake, so that a published procedure over those modules can be run a hundred times faster.
Normal numbers come in pairs; `spare`, float64 (1,), holds the second one, NaN where none is left.
Everything is compiled and nothing is checked: seeds are in 0 to 2^32 - 1, sizes in 1 to 2^32 - 1.

Sources: M. Matsumoto, T. Nishimura, ACM TOMACS 8 (1998) 3, and their initialisation of 2002;
G. Marsaglia's polar method; D. Knuth's product method for Poisson numbers.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

WORDS, SHIFT = 624, 397
STATE, PLACE = WORDS + 1, WORDS
WORD_BITS, WORD_MASK = 32, 0xFFFFFFFF
TOP_BIT, LOW_BITS, TWIST = 0x80000000, 0x7FFFFFFF, 0x9908B0DF
KNUTH, ARRAY_SEED, ARRAY_MIX, ARRAY_MIX_AGAIN = 1_812_433_253, 19_650_218, 1_664_525, 1_566_083_941
POISSON_MEAN_MAX = 10.0


@njit(nogil=True, cache=True)
def new_state() -> Int64s:
    """An unseeded state."""
    return np.zeros(STATE, np.int64)


@njit(nogil=True, cache=True)
def seed_numpy(state: Int64s, seed: int) -> None:
    """As `numpy.random.RandomState(seed)`; forget the spare normal number, too."""
    state[0] = seed
    for i in range(1, WORDS):
        before = state[i - 1]
        state[i] = (KNUTH * (before ^ (before >> 30)) + i) & WORD_MASK
    state[PLACE] = WORDS


@njit(nogil=True, cache=True)
def seed_python(state: Int64s, seed: int) -> None:
    """As `random.seed(seed)`, which takes an integer as an array of words; here it is one word."""
    seed_numpy(state, ARRAY_SEED)
    i = 1
    for _ in range(WORDS):
        before = state[i - 1]
        state[i] = ((state[i] ^ ((before ^ (before >> 30)) * ARRAY_MIX)) + seed) & WORD_MASK
        i += 1
        if i == WORDS:
            state[0] = state[WORDS - 1]
            i = 1
    for _ in range(WORDS - 1):
        before = state[i - 1]
        state[i] = ((state[i] ^ ((before ^ (before >> 30)) * ARRAY_MIX_AGAIN)) - i) & WORD_MASK
        i += 1
        if i == WORDS:
            state[0] = state[WORDS - 1]
            i = 1
    state[0] = TOP_BIT


@njit(nogil=True, cache=True)
def _twist(state: Int64s) -> None:
    """Make the next 624 words of the old ones."""
    for i in range(WORDS):
        joined = (state[i] & TOP_BIT) | (state[(i + 1) % WORDS] & LOW_BITS)
        state[i] = state[(i + SHIFT) % WORDS] ^ (joined >> 1) ^ ((joined & 1) * TWIST)
    state[PLACE] = 0


@njit(nogil=True, cache=True)
def word(state: Int64s) -> int:
    """The next 32 bits."""
    if state[PLACE] == WORDS:
        _twist(state)
    bits = int(state[state[PLACE]])
    state[PLACE] += 1
    bits ^= bits >> 11
    bits ^= (bits << 7) & 0x9D2C5680
    bits ^= (bits << 15) & 0xEFC60000
    return bits ^ (bits >> 18)


@njit(nogil=True, cache=True)
def uniform(state: Int64s, low: float, high: float) -> float:
    """As `RandomState.uniform(low, high)`: 53 random bits, `high` not included."""
    upper, lower = word(state) >> 5, word(state) >> 6
    return low + (high - low) * ((upper * 67_108_864.0 + lower) / 9_007_199_254_740_992.0)


@njit(nogil=True, cache=True)
def normal(state: Int64s, spare: Float64s, mean: float, deviation: float) -> float:
    """As `RandomState.normal(mean, deviation)`."""
    kept = float(spare[0])
    if not math.isnan(kept):
        spare[0] = np.nan
        return mean + deviation * kept
    while True:
        x, y = uniform(state, -1.0, 1.0), uniform(state, -1.0, 1.0)
        square = x * x + y * y
        if 0.0 < square < 1.0:
            break
    factor = math.sqrt(-2.0 * math.log(square) / square)
    spare[0] = factor * x
    return mean + deviation * (factor * y)


@njit(nogil=True, cache=True)
def poisson(state: Int64s, mean: float) -> int:
    """As `RandomState.poisson(mean)` for means from 0 up to, not including, POISSON_MEAN_MAX."""
    if mean == 0.0:
        return 0
    limit, product, count = math.exp(-mean), 1.0, 0
    while True:
        product *= uniform(state, 0.0, 1.0)
        if product <= limit:
            return count
        count += 1


@njit(nogil=True, cache=True)
def below(state: Int64s, size: int) -> int:
    """The place that `random.choice` picks in a sequence of `size`; as `random.randrange(size)`."""
    bits = 0
    while size >> bits:
        bits += 1
    while True:
        place = word(state) >> (WORD_BITS - bits)
        if place < size:
            return place
