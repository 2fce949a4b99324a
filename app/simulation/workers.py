"""Workers as `app.wiring` builds them, on the simulated ports, and who starts them again.

A seed's worker is the production code from the intake's thread to the store, with a trivial model.
In the place of Faust is a loop that takes batch after batch and drains where Faust would.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from app import decode
from app.adapters.memory import LinearExplainer, LinearScorer, MemoryRegistry
from app.batching import BatchPolicy
from app.decide import Policy
from app.delivery import Announcements
from app.emit import Route
from app.enrich import Enrich
from app.errors import BrokerUnavailable
from app.intake import Intake, IntakeLimits
from app.ledger import Ledger
from app.live import Live, StateError
from app.ownership import Ownership
from app.pipeline import LabelParts, Parts
from app.simulation.clients import (
    GROUP,
    Connection,
    Network,
    SimulatedSource,
    SimulatedTransactor,
    SimulatedWatermarks,
)
from app.simulation.concurrency import Loop, now_us
from app.simulation.data import (
    ALERTS,
    LABEL_WRITERS,
    LETTERS,
    LIMITS,
    PARTITIONS,
    SCORES,
    TIMING,
    TOPICS,
    WATERMARKS,
    WRITERS,
)
from app.simulation.group import Group
from app.simulation.kafka import Cluster
from app.simulation.store import Server, SimulatedStore
from app.simulation.world import Process, World
from app.transactions import TransactionalDelivery
from app.worker import Worker
from features.contract import WIDTH, contract_id

RESTART_US = 400_000
_WEIGHTS = np.linspace(-0.01, 0.01, WIDTH).astype(np.float32)
_SCORER = LinearScorer(_WEIGHTS, "simulated", contract_id(TIMING))
_POLICY = Policy(0.4, 0.9)
_ROUTE = Route(SCORES, ALERTS, LETTERS)


class Silent:
    """Metrics that nobody reads."""

    def __getattr__(self, _: str) -> "Silent":
        return self

    def __getitem__(self, _: str) -> "Silent":
        return self

    def __call__(self, *_: object, **__: object) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """Settings of a seed's workers."""

    records_max: int
    queue_batches_max: int
    inflight_records_max: int
    flush_s: float
    customers_max: int
    commit_again_s: float


class Host:
    """Where one worker id lives: starts a worker, and another one when that ends."""

    def __init__(
        self, world: World, name: str, cluster: Cluster, group: Group, server: Server,
        network: Network, knobs: Knobs,
    ) -> None:  # fmt: skip
        """Nothing runs yet."""
        self.world, self.name = world, name
        self._cluster, self._group, self._server = cluster, group, server
        self._network, self._knobs = network, knobs
        self._count = 0
        self.process: Process | None = None
        self.worker: Worker | None = None
        self.is_wanted = False
        self._stopping: asyncio.Event | None = None
        self._loop: Loop | None = None

    def start(self) -> None:
        """Start a worker now."""
        self.is_wanted = True
        if self.process is not None and not self.process.is_dead:
            return
        self._count += 1
        process = self.process = Process(self.world, f"{self.name}.{self._count}")
        self.worker, self._stopping = None, None
        process.watchers.append(lambda: self._again(process))
        self._loop = Loop(process)
        self._loop.begin(self._life(process))

    def _again(self, process: Process) -> None:
        if process.is_dead:
            self.world.after(RESTART_US, self._start_again)

    def _start_again(self) -> None:
        if self.is_wanted:
            self.start()

    def stop(self) -> None:
        """As by SIGTERM; nothing starts again."""
        self.is_wanted = False
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        elif self.process is not None:
            self.process.kill()

    async def _life(self, process: Process) -> None:
        worker = self.worker = self._built(process)
        self._stopping = asyncio.Event()
        worker.delivery.open()
        worker.intake.start()
        working = asyncio.create_task(self._work(worker))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        await worker.drain()
        working.cancel()
        [error, _] = (
            await asyncio.gather(working, stopping, return_exceptions=True)
            if (stopping.done())
            else [working.exception() if not working.cancelled() else None, None]
        )
        self._ended(process, error)

    async def _work(self, worker: Worker) -> None:
        while True:
            await worker.handle(await worker.intake.get())

    def _ended(self, process: Process, error: BaseException | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, StateError | BrokerUnavailable):
            self.world.fault(f"{process.name} ended by {error!r}", error)
        self.world.note(process.name, "ended", repr(error))
        process.kill()

    def _built(self, process: Process) -> Worker:
        knobs, metrics = self._knobs, cast("Any", Silent())
        connection = Connection(process, self._cluster, self._network)
        store = SimulatedStore(self._server)
        live = Live(TIMING, PARTITIONS, knobs.customers_max, 16 * PARTITIONS)

        def transactor(transactional_id: str) -> SimulatedTransactor:
            return SimulatedTransactor(connection, self._group, transactional_id)

        ownership = Ownership(
            live, store, TOPICS, self.name, "simulated", metrics, now_us,
            flush_s=knobs.flush_s,
            marks=SimulatedWatermarks(connection),
            fencer=lambda i: transactor(i).close(0),
        )  # fmt: skip
        parts = Parts(
            decode=decode.decode,
            writers=WRITERS,
            limits=LIMITS,
            registry=MemoryRegistry(),
            enrich=Enrich(live, store, now_us, ownership.backoff, ownership.make_room),
            scorer=_SCORER,
            policy=_POLICY,
            explainer=LinearExplainer(_WEIGHTS),
            route=_ROUTE,
            clock=now_us,
            backoff=ownership.backoff,
        )
        intake = Intake(
            lambda listener: SimulatedSource(connection, self._group, listener),
            Ledger(),
            BatchPolicy(knobs.records_max, 3),
            IntakeLimits(
                knobs.queue_batches_max,
                100,
                2.0,
                commits_itself=False,
                commit_again_s=knobs.commit_again_s,
            ),
            metrics,
            ownership,
        )

        delivery = TransactionalDelivery(
            transactor, intake, f"{GROUP}.{self.name}", ownership.begin, knobs.inflight_records_max
        )
        labels = LabelParts(TOPICS[1], LABEL_WRITERS)
        worker = Worker(parts, metrics, intake, ownership, labels, delivery)
        ownership.announcer = Announcements(delivery, intake, WATERMARKS, GROUP, TOPICS)
        return worker
