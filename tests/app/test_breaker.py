"""The breaker: when a flood of rejects stops the intake, and how it goes on by itself."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from app.breaker import PAUSE_GROWS_MAX, WINDOW_S, Breaker
from tests.app.builders import record_batch
from tests.app.test_intake import until
from tests.app.test_worker import AT, LABELS_AT, TOPICS, Bench

PAUSE_S = 10.0


def breaker() -> Breaker:
    """One that opens at more than half of 100 records and more."""
    return Breaker(0.5, 100, PAUSE_S)


def opened(at_s: float = 0.0) -> Breaker:
    """One that is open since then."""
    its = breaker()
    its.count(200, 200, at_s)
    assert its.holds(at_s)
    return its


def test_it_opens_above_the_share_and_from_the_least_number_on() -> None:
    """Half is not more than half, and few records prove nothing."""
    its = breaker()
    its.count(99, 99, 0.0)
    assert not its.reason
    its.count(99, 0, 1.0)
    assert not its.holds(1.0)
    its.count(2, 2, 2.0)
    assert its.holds(2.0)
    assert "101 of 200" in its.reason


def test_only_the_last_minute_counts() -> None:
    """Rejects that are longer ago than the window are forgotten, and no slot is kept for ever."""
    its = breaker()
    its.count(99, 99, 0.0)
    its.count(99, 99, WINDOW_S)
    assert not its.reason
    for tick in range(100_000):
        its.count(1, 0, 2 * WINDOW_S + tick * 0.01)
    assert len(its._slots) <= WINDOW_S + 1


def test_a_good_probe_closes_it() -> None:
    """After the pause one batch is read; nothing else is until it is decided on."""
    its = opened()
    its.count(500, 500, 1.0)  # what was in hand says nothing new
    assert its.holds(PAUSE_S - 0.1)
    assert not its.holds(PAUSE_S)
    its.took(PAUSE_S)
    assert its.holds(PAUSE_S + 0.1)
    its.count(10, 5, PAUSE_S + 0.2)
    assert not its.reason
    assert not its.holds(PAUSE_S + 0.2)


def test_bad_probes_wait_longer_and_longer_up_to_a_limit() -> None:
    """Each bad probe doubles the pause; a good one makes it short again."""
    its, at_s = opened(), 0.0
    for times in (1, 2, 4, 8, 16, 16):
        at_s += times * PAUSE_S
        assert its.holds(at_s - 0.1)
        assert not its.holds(at_s)
        its.took(at_s)
        its.count(1, 1, at_s)
    assert PAUSE_GROWS_MAX == 16
    at_s += 16 * PAUSE_S
    its.took(at_s)
    its.count(1, 0, at_s)
    assert not its.reason
    its.count(200, 200, at_s)
    assert not its.holds(at_s + PAUSE_S)


def test_a_probe_that_is_dropped_is_made_up_for() -> None:
    """Where its partition is given up no verdict comes: another batch is tried a pause later."""
    its = opened()
    its.took(PAUSE_S)
    assert its.holds(2 * PAUSE_S - 0.1)
    assert not its.holds(2 * PAUSE_S)
    its.took(2 * PAUSE_S)
    its.count(0, 0, 2 * PAUSE_S)  # all of it was known already
    assert its.reason
    its.count(5, 0, 2 * PAUSE_S)
    assert not its.reason


def test_a_flood_is_drained_slowly() -> None:
    """However long all is bad, no more than a batch a pause is read, and no pause ends it all."""
    its, rng, read = opened(), random.Random(1), 0  # noqa: S311 -- repeatable
    at_s = 0.0
    while at_s < 3600:
        at_s += rng.uniform(0.01, 0.2)
        if not its.holds(at_s):
            read += 1
            its.took(at_s)
            its.count(2048, 2048, at_s + 0.005)
    assert 3600 / (PAUSE_GROWS_MAX * PAUSE_S) <= read < 4 + 3600 / (PAUSE_GROWS_MAX * PAUSE_S)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A running worker whose Kafka is in memory."""
    bench = Bench()
    bench.worker.intake.breakers = {topic: Breaker(0.5, 3, PAUSE_S) for topic in TOPICS}
    bench.worker.delivery.open()
    bench.worker.intake.start()
    agent = asyncio.create_task(bench.run())
    await until(bench.is_assigned)
    yield bench
    await bench.worker.drain()
    agent.cancel()


async def test_a_flood_of_bad_labels_pauses_the_labels_only(bench: Bench) -> None:
    """Transactions go on, readiness says why, and what else is held stays held beside it."""
    bad = [(0, at, b"k", b"no label") for at in range(5)]
    bench.source.add(record_batch(bad, topic="labels"))
    await until(lambda: bench.source.paused == {LABELS_AT})
    ready, [why] = bench.worker.readiness()
    assert not ready
    assert why.startswith("intake of labels is paused: 5 of 5 records")
    assert LABELS_AT not in bench.worker.intake.at_end()  # nobody hears of its end
    bench.add(0, 4)
    await until(lambda: bench.source.commits == {AT: 4, LABELS_AT: 5})
    bench.worker.intake.hold({AT})
    await until(lambda: bench.source.paused == {AT, LABELS_AT})
    bench.worker.intake.hold(set())
    await until(lambda: bench.source.paused == {LABELS_AT})


async def test_a_new_assignment_stays_paused(bench: Bench) -> None:
    """A rebalance does not let a paused topic be read."""
    bench.source.add(record_batch([(0, at, b"k", b"bad") for at in range(5)]))
    await until(lambda: bench.source.paused == {AT})
    await asyncio.to_thread(bench.source.revoke)
    await until(lambda: len(bench.source.sought) > 1)  # claimed anew, and so resumed
    await until(lambda: bench.source.paused == {AT})
    assert bench.worker.intake.breakers["transactions"].holds(time.monotonic())
