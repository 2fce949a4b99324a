"""Campaigns of faults, without servers: what a seed draws, and how crash points are laid."""

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.adapters.mock_cluster import MockCluster
from app.chaos import faults as doing
from app.chaos.campaign import Campaign
from app.chaos.crash import Mine, found
from app.chaos.faults import Faults
from app.chaos.points import POINTS, Place
from app.chaos.reader import Reader
from app.chaos.schedule import KINDS, TIERS, Fault, draw
from app.chaos.verdict import Verdict
from app.config import load_settings
from app.errors import ConfigError

CI = TIERS["ci"]


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_a_seed_draws_the_same_faults_again(tier: Any) -> None:
    """The whole list follows from the seed, and another seed has another one."""
    assert draw(tier, 7) == draw(tier, 7)
    assert draw(tier, 7) != draw(tier, 8)


@pytest.mark.parametrize("tier", [*TIERS.values(), CI.scaled(0.1)], ids=[*TIERS, "small"])
def test_every_fault_of_a_tier_is_drawn(tier: Any) -> None:
    """As many of each kind as the tier says, in the order of the stream, within it."""
    faults = draw(tier, 3)
    assert Counter(fault.kind for fault in faults) == tier.counts
    assert set(tier.counts) == set(KINDS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert 0 < faults[0].at < faults[-1].at < tier.transactions


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_tier_has_all_there_is(seed: int) -> None:
    """Each crash point and each way to break a network; measured takeovers among the kills."""
    faults = draw(CI, seed)
    assert {f.what for f in faults if f.kind == "point"} == {point.name for point in POINTS}
    assert len(POINTS) >= 12
    network = {f.what.partition(" ")[2] for f in faults if f.kind == "network"}
    assert network == {"cut", "black hole", "delay", "throttle"}
    assert {f.what for f in faults if f.kind == "redis"} == {"-9", "SIGSTOP"}
    assert {f.what for f in faults if f.kind == "rebalance"} == {"rolling", "join and leave"}
    assert sum(f.alone for f in faults) > 3
    assert {f.what for f in draw(TIERS["long"], seed) if f.kind == "loss"} == {
        "flushed",
        "older data",
        "emptied",
    }


def test_a_tier_takes_other_numbers() -> None:
    """`--count` and `--scale` change the size; what is no kind is refused by name."""
    assert CI.with_counts(["kill=2", "held=0"]).counts["kill"] == 2
    assert len(draw(CI.scaled(0.01), 0)) == len(KINDS)
    with pytest.raises(ConfigError, match="earthquake=1"):
        CI.with_counts(["earthquake=1"])


@pytest.mark.parametrize("place", [place for point in POINTS for place in point.places])
def test_what_a_crash_point_names_is_there(place: Place) -> None:
    """A function that was renamed would take its crash point with it, unseen."""
    owner, name = found(place)
    assert callable(getattr(owner, name))


class Production:
    """What a test lays mines in."""

    @staticmethod
    def call(value: int) -> int:
        """Give it back."""
        return value

    @staticmethod
    async def wait(value: int) -> int:
        """Give it back, later."""
        return value


async def test_a_mine_goes_off_at_the_nth_call_that_counts() -> None:
    """Before or after, plain or awaited, and never before the worker runs."""
    module = __name__
    ends: list[int] = []
    mine = Mine(2, lambda: ends.append(1))
    kept = Production.call, Production.wait
    try:
        even = lambda arguments, _result: arguments[0] % 2 == 0  # noqa: E731 -- one line
        mine.lay(Place(module, "Production.call", after=False, counts=even))
        odd = lambda _arguments, result: result % 2 == 1  # noqa: E731 -- one line
        mine.lay(Place(module, "Production.wait", after=True, counts=odd))
        assert Production.call(2) == 2
        assert await Production.wait(1) == 1
        assert not ends
        mine.is_armed = True
        for value in (0, 1, 3):
            assert Production.call(value) == value
        assert not ends
        assert await Production.wait(2) == 2
        assert not ends
        assert await Production.wait(5) == 5
        assert ends == [1]
    finally:
        Production.call, Production.wait = kept  # type: ignore[method-assign]


def test_a_crash_point_that_is_never_passed_is_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would pass silently otherwise, as if the worker had survived it."""
    monkeypatch.setattr(doing, "REACH_S_MAX", -1.0)
    member: Any = SimpleNamespace(
        number=0, mine="", partitions={0}, has_ended=False, started_s=0.0, asked_s=0.0
    )
    crew: Any = SimpleNamespace(
        members={0: member},
        free=lambda _number: member,
        stop=lambda *_: None,
        kill=lambda *_: None,
    )
    failed: list[str] = []
    stage: Any = None
    its = Faults(stage, crew, lambda _text: None, failed.append)
    assert its.do(Fault(0, "point", "decoded", 0, 0.0, 1))
    member.mine = its.lay(0)
    its.turn()
    assert failed == ["crash point 'decoded' was never reached"]
    assert its.is_quiet


def test_a_campaign_whose_outputs_cannot_be_read_is_violated() -> None:
    """Nobody would see what came out: it ends, and says why."""
    cluster = MockCluster({"scores": 1})
    reader = Reader(load_settings(bootstrap_servers=cluster.bootstrap))  # no dead letters there
    for _ in range(100):
        if not reader.has_ended:
            time.sleep(0.1)
    cluster.stop()
    failed: list[str] = []
    campaign: Any = SimpleNamespace(reader=reader, _waits_since_s=0.0, _fail=failed.append)
    sender: Any = SimpleNamespace(is_alive=lambda: True)
    assert Campaign._is_over(campaign, [sender])
    assert len(failed) == 1
    assert "dead" in failed[0]


def test_a_row_is_kept_of_each_campaign(tmp_path: Path) -> None:
    """The table has its head once, and a column for everything."""
    table = tmp_path / "campaigns.md"
    for seed in (1, 2):
        verdict = Verdict(seed, CI)
        verdict.faults["kill"] = 10
        verdict.append_to(table)
    lines = table.read_text().splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
