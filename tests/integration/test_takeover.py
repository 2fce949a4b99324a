"""Workers that die, sleep and leave, on a real Kafka: who takes over, when, and exactly once."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.demo.cluster import Kafka
from app.meta import Meta
from tests.integration.test_doubt import (
    IN_DOUBT,
    LIMIT_S,
    Gate,
    check_exact,
    events,
    gate,
    opened,
    said,
    send,
    until,
)
from tests.integration.world import PARTITIONS, Worker, World

__all__ = ["gate"]  # a fixture
SESSION_S = 6
SETTINGS = {"consumer_options": json.dumps({"session.timeout.ms": str(1000 * SESSION_S)})}
FENCED = "a former owner is fenced"
SLACK_S = 8.0
"""What a busy machine may take longer."""
Figure = Callable[[str], None]


@pytest.fixture
def world(kafka: Kafka, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """Fresh topics."""
    with opened(kafka.bootstrap, redis_url, tmp_path) as world:
        yield world


@pytest.fixture(params=["native", "objects"], autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it on both."""
    monkeypatch.setitem(SETTINGS, "transport", request.param)


def metas(world: World) -> dict[int, Meta]:
    """What Redis says of each partition's state."""
    found: dict[int, Meta] = {}
    with Redis.from_url(world.redis_url) as client:
        for key in client.scan_iter(match=f"*{world.group}*meta"):
            meta = Meta.parse(client.get(key))
            assert meta is not None
            found[int(key.partition(b"{p")[2].partition(b"}")[0])] = meta
    return found


def starts(world: World, count: int, **settings: object) -> list[Worker]:
    """Workers that share the partitions, and have read something."""
    each = ({**SETTINGS, "worker_id": f"w{i}", **settings} for i in range(count))
    workers = [world.worker(**its) for its in each]
    until(lambda: all(holds(worker) == PARTITIONS // count for worker in workers))
    send(world, 100)
    world.wait_committed()
    return workers


def leave(worker: Worker) -> float:
    """Let it end by itself, and well; how long that takes, in s."""
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(LIMIT_S) == 0
    return time.monotonic() - began


def holds(worker: Worker) -> int:
    """How many partitions a worker has, by its log."""
    held: set[int] = set()
    for line in said(worker):
        if line["event"] == "partitions assigned":
            held |= set(line["partitions"])
        elif line["event"] == "partitions given up":
            held -= set(line["partitions"])
    return len(held)


def test_killed_between_the_offsets_and_the_commit(
    world: World, gate: Gate, figure: Figure
) -> None:
    """The successor fences the id that the state names: nobody waits for the broker to abort."""
    gate.faults("dies")
    first, second = starts(world, 2)
    owners = {p: meta.transactional_id for p, meta in metas(world).items()}
    gate.arm()
    send(world, 100)
    until(lambda: not (first.is_running() and second.is_running()))
    began = time.monotonic()
    world.wait_committed()
    took_s = time.monotonic() - began
    figure(f"takeover, killed between offsets and EndTxn: {took_s:.1f} s")
    assert took_s < SESSION_S + 3 + SLACK_S
    dead, successor = (first, second) if second.is_running() else (second, first)
    assert dead.process.returncode == -signal.SIGKILL
    fenced = [line.get("transactional_id") for line in said(successor) if FENCED in line["event"]]
    assert fenced
    assert set(fenced) <= set(owners.values())
    check_exact(world)
    leave(successor)


def test_a_zombie_commits_nothing_and_writes_nothing(world: World, gate: Gate) -> None:
    """Stopped with a transaction open and state unwritten, awake when another owns everything."""
    gate.faults("gate")
    [zombie] = starts(world, 1, state_flush_ms=4000)
    former = {meta.transactional_id for meta in metas(world).values()}
    gate.close()
    send(world, 100)
    until(lambda: gate.is_reached)
    zombie.process.send_signal(signal.SIGSTOP)
    gate.open()
    successor = world.worker(**SETTINGS, worker_id="w1")
    world.wait_committed()
    before = metas(world)
    assert not former & {meta.transactional_id for meta in before.values()}
    zombie.process.send_signal(signal.SIGCONT)
    until(lambda: not zombie.is_running() or holds(successor) == PARTITIONS // 2)
    send(world, 300)
    check_exact(world)
    after = metas(world)
    assert all(after[p].epoch >= before[p].epoch for p in before)
    assert not former & {meta.transactional_id for meta in after.values()}
    leave(successor)


def test_two_workers_of_one_id_do_not_fence_each_other(world: World, figure: Figure) -> None:
    """A mistake that harms nobody: their transactional ids differ. And leaving takes a moment."""
    one, two = starts(world, 2, worker_id="same")
    for _ in range(5):
        send(world, 500)
    began, began_at = time.monotonic(), time.time()
    ended_s = leave(one)
    left_s = events(one, "partitions given up")[-1] - began_at
    until(lambda: holds(two) == PARTITIONS)
    taken_s = time.monotonic() - began
    figure(
        f"clean leave: given up after {left_s:.2f} s, ended after {ended_s:.2f} s, all taken over"
        f" after {taken_s:.2f} s"
    )
    assert left_s < 2 + SLACK_S
    send(world, 500)
    check_exact(world)
    assert not events(one, IN_DOUBT)
    assert not events(two, IN_DOUBT)
    leave(two)


def test_on_revoke_a_transaction_that_does_not_end_is_given_up(world: World, gate: Gate) -> None:
    """After the drain time; who owns the partitions next fences it, and it commits nothing."""
    gate.faults("gate")
    [one] = starts(world, 1)
    gate.close()
    send(world, 100)
    until(lambda: gate.is_reached)
    gate.faults("")
    two = world.worker(**SETTINGS, worker_id="w1")
    until(lambda: holds(two) == PARTITIONS // 2)
    gate.open()
    send(world, 100)
    check_exact(world)
    assert len(events(one, "gave up partitions with work in hand; it will be done again")) == 1
    for worker in (one, two):
        leave(worker)


def test_a_static_member_that_is_back_in_time_moves_no_partition(world: World) -> None:
    """Its partitions wait for it; the other never hears of it."""
    patient = json.dumps({"session.timeout.ms": "45000"})
    settings = {"static_membership": True, "consumer_options": patient}
    one, two = starts(world, 2, **settings)
    rebalances = len(events(two, "partitions assigned")), len(events(two, "partitions given up"))
    leave(one)
    again = world.worker(worker_id="w0", **settings)
    until(lambda: holds(again) == PARTITIONS // 2)
    send(world, 100)
    check_exact(world)
    assert rebalances == (
        len(events(two, "partitions assigned")),
        len(events(two, "partitions given up")),
    )
    for worker in (again, two):
        leave(worker)
