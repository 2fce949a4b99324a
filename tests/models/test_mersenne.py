"""The compiled generators against the modules that they follow, number by number."""

import random

import numpy as np
import pytest

from models import mersenne

SEEDS = (0, 1, 57, 100_000, 2**31, 2**32 - 1)
DRAWS = 2_000  # several turns of the 624 words


def seeded(seed: int) -> tuple[np.random.RandomState, mersenne.Int64s, mersenne.Float64s]:
    """NumPy's generator, and ours seeded alike without a spare normal number."""
    state = mersenne.new_state()
    mersenne.seed_numpy(state, seed)
    return np.random.RandomState(seed), state, np.full(1, np.nan)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_seedings_give_the_words_of_their_modules(seed: int) -> None:
    """The whole state is the same, and so are the words drawn from it."""
    theirs, state, _ = seeded(seed)
    expected = theirs.get_state(legacy=False)["state"]
    assert state.tolist() == [*expected["key"], expected["pos"]]
    assert [mersenne.word(state) for _ in range(DRAWS)] == [
        int.from_bytes(theirs.bytes(4), "little") for _ in range(DRAWS)
    ]
    mersenne.seed_python(state, seed)
    python = random.Random(seed)  # noqa: S311 -- what we follow
    assert tuple(state.tolist()) == python.getstate()[1]
    assert [mersenne.word(state) for _ in range(DRAWS)] == [
        python.getrandbits(32) for _ in range(DRAWS)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_numbers_are_numpys(seed: int) -> None:
    """Bit for bit, for several ranges."""
    theirs, state, _ = seeded(seed)
    for high in (1.0, 4.0, 100.0, 57.3):
        assert [mersenne.uniform(state, 0.0, high) for _ in range(500)] == [
            theirs.uniform(0.0, high) for _ in range(500)
        ]
    assert mersenne.uniform(state, 5.0, 100.0) == theirs.uniform(5.0, 100.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_normal_numbers_are_numpys_with_the_spare_one_kept(seed: int) -> None:
    """Other draws between the two of a pair leave the second one as it is."""
    theirs, state, spare = seeded(seed)
    for i in range(DRAWS):
        mean, deviation = 100.0 * i, 1.0 + i
        assert mersenne.normal(state, spare, mean, deviation) == theirs.normal(mean, deviation)
        if i % 3 == 0:
            assert mersenne.uniform(state, 0.0, 1.0) == theirs.uniform()


@pytest.mark.parametrize("mean", [0.0, 1e-9, 0.3, 1.0, 3.999, 9.99])
def test_poisson_numbers_are_numpys(mean: float) -> None:
    """A mean of nothing takes no draw; the numbers afterwards agree, too."""
    theirs, state, _ = seeded(3)
    assert [mersenne.poisson(state, mean) for _ in range(DRAWS)] == [
        theirs.poisson(mean) for _ in range(DRAWS)
    ]
    assert mersenne.uniform(state, 0.0, 1.0) == theirs.uniform()


@pytest.mark.parametrize("size", [1, 2, 3, 64, 75, 127, 128, 10_000, 2**31 + 1])
def test_choices_are_pythons(size: int) -> None:
    """Rejected draws are drawn again, as `random.choice` does."""
    state = mersenne.new_state()
    mersenne.seed_python(state, 11)
    python = random.Random(11)  # noqa: S311 -- what we follow
    assert [mersenne.below(state, size) for _ in range(DRAWS)] == [
        python.choice(range(size)) for _ in range(DRAWS)
    ]
