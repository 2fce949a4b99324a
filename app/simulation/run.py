"""One seed from begin to end: the same seed gives the same trace and the same verdict."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from app.simulation import laws
from app.simulation.clients import Network
from app.simulation.concurrency import installed
from app.simulation.data import PARTITIONS, POOL, Data, data, namespace
from app.simulation.faults import FAULTS_US, Faults
from app.simulation.group import Group
from app.simulation.kafka import Cluster
from app.simulation.store import Server
from app.simulation.workers import Host, Knobs
from app.simulation.world import Stuck, World

PRODUCED_US = 3_200_000
HEALED_US = 90_000_000
"""All that was produced must be committed so long after the last fault, at the latest."""
STOP_US = 10_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a seed."""

    seed: int
    broken: tuple[str, ...]
    digest: str
    """Of the whole trace."""
    trace: tuple[tuple[Any, ...], ...] = ()


def simulate(seed: int, *, keep_trace: bool = False) -> Verdict:
    """Run one seed."""
    world = World(seed)
    with installed(world):
        broken = list(_run(world))
        broken = world.faults + broken
        trace = tuple(world.trace)
    lines = "\n".join(map(str, trace)).encode()
    digest = hashlib.blake2b(lines, digest_size=8).hexdigest()
    return Verdict(seed, tuple(broken), digest, trace if keep_trace or broken else ())


def _run(world: World) -> Iterator[str]:
    number = world.seed % POOL
    its, cluster = data(number), Cluster(world)
    group, server, network = Group(cluster, PARTITIONS), Server(world, cluster), Network()
    knobs = Knobs(
        records_max=world.between(1, 12),
        queue_batches_max=world.between(1, 4),
        inflight_records_max=(3, 20, 1000)[world.between(0, 2)],
        flush_s=(0.02, 0.2, 1.0)[world.between(0, 2)],
        customers_max=(12, 24)[world.between(0, 1)],
        commit_again_s=(0.3, 1.5, 3600.0)[world.seed // POOL % 3],
    )
    hosts = [
        Host(world, f"w{i}", cluster, group, server, network, knobs)
        for i in range(world.between(1, 3))
    ]
    _produce(world, its, cluster)
    faults = Faults(world, hosts, cluster, group, server, network)
    for host in hosts:
        world.at(world.between(0, 500_000), host.start)
    wanted = laws.ends(its)

    def is_done() -> bool:
        return faults.is_over and all(
            cluster.offsets.get(at, 0) >= end for at, end in wanted.items()
        )

    try:
        if not world.run(is_done, FAULTS_US + HEALED_US):
            yield f"liveness: only {sorted(cluster.offsets.items())} are committed"
            return
        for host in hosts:
            host.stop()
        stopped_us = world.now_us + STOP_US
        if not world.run(
            lambda: all(h.process is None or h.process.is_dead for h in hosts), stopped_us
        ):
            yield "liveness: a worker does not stop"
            return
        world.run(lambda: not cluster.open_transactions(), world.now_us + STOP_US)
    except Stuck as error:
        yield f"liveness: {error}"
        return
    yield from laws.broken(number, its, cluster, server, namespace())


def _produce(world: World, its: Data, cluster: Cluster) -> None:
    """Let the logs grow: at once, evenly, or in bursts with silence between them."""
    for at, rows in its.rows.items():
        bursts = [world.between(0, PRODUCED_US) for _ in range(world.between(1, 4))]
        for when_us, row in zip(
            sorted(bursts[world.between(0, len(bursts) - 1)] for _ in rows), rows, strict=True
        ):
            world.at(when_us, cluster.append, at, row)


def simulate_many(seeds: Iterable[int], workers: int) -> Iterator[Verdict]:
    """Run seeds in processes, in no order of time."""
    if workers == 1:
        yield from map(simulate, seeds)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(simulate, seeds, chunksize=25)
