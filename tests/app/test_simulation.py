"""The worker's own code over a simulated Kafka, Redis and clock: many seeds, and seeded bugs."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from app.simulation.run import simulate, simulate_many
from tests.app.simulation_bugs import BUGS, Patch

SEEDS = int(os.environ.get("RISKWIRE_SIMULATION_SEEDS", "2000"))
"""A tenth of a second each; `riskwire simulate-faults` runs as many as one likes."""
CONTROL_SEEDS = 600
"""Within so many every seeded bug is found; most within ten, which depends on the Python."""
RARE = {
    "no_fence_of_the_former_owner": 200,
    "go_on_after_a_stop_in_doubt": 580,
}
"""Those that are found less often, and from which seed on to look."""


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"
)
def test_no_law_is_broken() -> None:
    """Whatever dies, freezes, is cut off or lost: every law holds, and everything is drained."""
    broken = [verdict for verdict in simulate_many(range(SEEDS), 1) if verdict.broken]
    assert not [(verdict.seed, verdict.broken) for verdict in broken]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"
)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_seeded_bugs_are_found(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """Controls: a simulation that finds nothing must be able to find something."""
    bug(monkeypatch)
    first = RARE.get(bug.__name__, 0)
    assert any(simulate(seed).broken for seed in range(first, first + CONTROL_SEEDS))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"
)
def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same trace, also after others, and under another hash seed."""
    first = simulate(84)
    simulate(5)
    assert simulate(84).digest == first.digest
    code = "from app.simulation.run import simulate; print(simulate(84).digest)"
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
        timeout=300,
    )
    assert other.stdout.strip() == first.digest
