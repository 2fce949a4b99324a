"""What a worker sees of the simulated cluster: the ports `Source`, `Transactor` and `WatermarkLog`.

Every request may be lost on its way, or its answer may be; the seed says which, and how long each
way takes. A request that was lost comes back as BrokerUnavailable, soon (an error event) or after
the time-out. An EndTxn may also arrive after its sender has given it up.
"""
# ruff: noqa: ARG002 -- the ports' arguments

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from app.errors import BrokerUnavailable, GroupMoved
from app.ledger import Position
from app.ports import RebalanceListener
from app.records import Outbound, RecordBatch
from app.simulation.concurrency import now_us
from app.simulation.data import TOPICS, WATERMARKS, batch
from app.simulation.group import Group
from app.simulation.kafka import REFUSED, Cluster
from app.simulation.world import Process, Task, World
from app.watermarks import Watermark, parse

T = TypeVar("T")
REQUEST_US = 3_000_000
WAY_US_MAX = 1_500
RETRY_US = 20_000
GROUP = "simulated"


@dataclass(slots=True)
class Network:
    """How often what goes wrong; shares of the requests."""

    lost: float = 0.0
    answer_lost: float = 0.0
    late_end: float = 0.0
    trouble: float = 0.0
    """Of transactions: an error is reported beside, and all goes well."""


class Connection:
    """A process' way to the cluster."""

    def __init__(self, process: Process, cluster: Cluster, network: Network) -> None:
        """It is there; whether anything gets through is another question."""
        self.process, self.cluster, self.network = process, cluster, network
        self.world: World = process.world

    @property
    def is_down(self) -> bool:
        """Whether nothing gets through now."""
        return self.cluster.away or self.process.cut

    def ask(self, apply: Callable[[], T]) -> T:
        """Let the cluster do something and wait for its answer; raises BrokerUnavailable."""
        its, end_us = self.world, self.world.now_us + REQUEST_US
        if its.current is None:
            raise BrokerUnavailable("it is over")
        if its.chance(self.network.lost):
            self._give_up("a request was lost")
        its.sleep(its.between(1, WAY_US_MAX))
        while True:
            while self.is_down:
                if its.now_us >= end_us:
                    raise BrokerUnavailable("no answer in time")
                its.sleep(RETRY_US)
            try:
                answer = apply()
                break
            except BrokerUnavailable as error:
                if "CONCURRENT" not in str(error) and "UNSTABLE" not in str(error):
                    its.sleep(its.between(1, WAY_US_MAX))
                    raise
                if its.now_us >= end_us:
                    raise
            its.sleep(its.between(1_000, RETRY_US))
        if its.chance(self.network.answer_lost):
            self._give_up("an answer was lost")
        its.sleep(its.between(1, WAY_US_MAX))
        return answer

    def _give_up(self, why: str) -> None:
        long = self.world.chance(0.1)
        self.world.sleep(REQUEST_US if long else self.world.between(1_000, 100_000))
        raise BrokerUnavailable(why)


class SimulatedSource:
    """Implements `Source`; a member of the group."""

    def __init__(self, connection: Connection, group: Group, listener: RebalanceListener) -> None:
        """Join soon."""
        self._connection, self._group, self._listener = connection, group, listener
        self._world, self._cluster = connection.world, connection.cluster
        self.process = connection.process
        self.member, self.generation = "", -1
        self._owned: set[int] = set()
        self._told: list[tuple[str, list[int]]] = []
        self._is_telling = self._closed = False
        self._positions: dict[Position, int] = {}
        self._paused: set[Position] = set()
        self._polling: Task | None = None
        self._cluster.appended.append(self._awake)
        self.process.watchers.append(self._watch)
        self._world.after(self._world.between(0, 5_000), self._join)

    # --- the background thread: heartbeats and rebalances

    def _join(self) -> None:
        if self._closed or self.process.is_dead:
            return
        if self._connection.is_down or self.process.is_frozen:
            self._world.after(RETRY_US, self._join)
        elif self.member and self.member not in self._group.members:
            self.lost()  # that is the answer
        else:
            self._group.join(self)

    def _watch(self) -> None:
        if self.process.is_silent:
            self._group.fell_silent(self)  # also who could not say that it leaves
        elif not self._closed:
            self._group.heard_again(self)

    def may_join(self) -> bool:
        """See `group.Client`."""
        return not self._told and not self._is_telling and not self._connection.is_down

    def owned(self) -> set[int]:
        """See `group.Client`."""
        return set(self._owned)

    def synced(self, generation: int, partitions: set[int]) -> None:
        """See `group.Client`."""
        if self._closed:
            return
        self.generation = generation
        if gone := sorted(self._owned - partitions):
            self._told.append(("revoked", gone))
        self._told.append(("assigned", sorted(partitions - self._owned)))
        self._awake()

    def lost(self) -> None:
        """See `group.Client`."""
        if not self._closed:
            self._told[:] = [("lost", sorted(self._owned))]
            self._awake()

    def _awake(self) -> None:
        if self._polling is not None:
            self._world.wake(self._polling)

    def _serve(self) -> bool:
        """Tell the listener what has changed, inside `poll`; whether there was anything."""
        if not self._told:
            return False
        self._is_telling = True
        what, partitions = self._told.pop(0)
        its = [(topic, p) for topic in TOPICS for p in partitions]
        if what == "assigned":
            self._owned |= set(partitions)
            self._listener.assigned(its)
            for at in its:
                self._positions[at] = self._cluster.offsets.get(at, 0)
        else:
            if what == "lost":
                self.generation, self.member = -1, ""
            self._listener.revoked(its, lost=what == "lost")
            self._owned -= set(partitions)
            for at in its:
                self._positions.pop(at, None)
                self._paused.discard(at)
            self._world.after(self._world.between(0, 5_000), self._join)
        self._is_telling = False
        return True

    # --- the port

    def poll(self, records_max: int, wait_ms: int, linger_ms: int) -> list[RecordBatch]:
        """See `Source.poll`."""
        if self._world.current is None:
            raise BrokerUnavailable("it is over")
        self._world.sleep(self._world.between(10, 300))
        end_us = self._world.now_us + 1000 * wait_ms
        while True:
            if self._serve():
                return []
            if found := self._take(records_max):
                return found
            if self._world.now_us >= end_us:
                return []
            self._polling = self._world.current
            self._world.park(end_us - self._world.now_us)
            self._polling = None

    def _take(self, records_max: int) -> list[RecordBatch]:
        if self._connection.is_down:
            return []
        left, batches = self._world.between(1, records_max), []
        for topic in TOPICS if self._world.chance(0.5) else reversed(TOPICS):
            rows: list[tuple[int, int, Any]] = []
            partitions = sorted(self._owned)
            if self._world.chance(0.5):
                partitions.reverse()
            for p in partitions:
                if (topic, p) not in self._paused and (topic, p) in self._positions and left > 0:
                    some = self._cluster.log((topic, p)).committed(self._positions[topic, p])[:left]
                    rows += [(p, offset, value) for offset, value in some]
                    left -= len(some)
            if rows:
                for p, offset, _ in rows:
                    self._positions[topic, p] = offset + 1
                batches.append(batch(topic, rows, now_us()))
        return batches

    def assignment(self) -> set[Position]:
        """See `Source.assignment`."""
        return {(topic, p) for topic in TOPICS for p in self._owned}

    def commit(self, offsets: Mapping[Position, int], *, wait: bool) -> None:
        """See `Source.commit`; refused at any other time than the worker's generation's."""
        raise NotImplementedError("transactions commit offsets")

    def committed(self, partitions: Sequence[Position]) -> dict[Position, int]:
        """See `Source.committed`: of stable offsets."""

        def find() -> dict[Position, int]:
            if any(self._cluster.unstable.get(at) for at in partitions):
                raise BrokerUnavailable(REFUSED + "UNSTABLE_OFFSET_COMMIT")
            found = self._cluster.offsets
            return {at: found[at] for at in partitions if at in found}

        return self._connection.ask(find)

    def seek(self, offsets: Mapping[Position, int]) -> None:
        """See `Source.seek`."""
        self._positions |= offsets

    def ends(self) -> dict[Position, int]:
        """See `Source.ends`."""
        return {at: self._cluster.log(at).end() for at in self.assignment()}

    def group_metadata(self) -> object:
        """See `Source.group_metadata`."""
        return self.member, self.generation

    def reached(self) -> dict[Position, int]:
        """See `Source.reached`: there are no markers."""
        return {}

    def unreadable(self) -> dict[Position, str]:
        """See `Source.unreadable`."""
        return {}

    def beginnings(self) -> dict[Position, int]:
        """See `Source.beginnings`."""
        return self._connection.ask(lambda: dict.fromkeys(self.assignment(), 0))

    def pause(self, partitions: Sequence[Position]) -> None:
        """See `Source.pause`."""
        self._paused |= set(partitions)

    def resume(self, partitions: Sequence[Position]) -> None:
        """See `Source.resume`."""
        self._paused -= set(partitions)

    def close(self) -> None:
        """See `Source.close`; what is owned is given up on the way."""
        if self._owned:
            self._told[:] = [("revoked", sorted(self._owned))]
            self._serve()
        self._closed = True
        if not self._connection.is_down and self._world.current is not None:
            self._group.leave(self)


class SimulatedTransactor:
    """Implements `Transactor`."""

    def __init__(self, connection: Connection, group: Group, transactional_id: str) -> None:
        """Fence who used the id before; raises BrokerUnavailable."""
        self._connection, self._group, self._id = connection, group, transactional_id
        self._cluster, self._world = connection.cluster, connection.world
        self._troubled = False
        connection.process.watchers.append(self._watch)
        self._epoch = connection.ask(lambda: self._cluster.init(transactional_id))

    def _watch(self) -> None:
        self._troubled |= self._connection.process.cut

    def is_troubled(self) -> bool:
        """See `Transactor.is_troubled`."""
        self._troubled |= self._connection.is_down
        return self._troubled

    def transact(
        self, outbounds: Iterable[Outbound], offsets: Mapping[Position, int], group: Any
    ) -> None:
        """See `Transactor.transact`."""
        ask, cluster, name = self._connection.ask, self._cluster, self._id
        for outbound in outbounds:
            records = _records(outbound)
            if records:
                ask(partial(cluster.produce, name, self._epoch, records))
        if offsets:

            def send() -> None:
                self._group.check(*group)
                cluster.send_offsets(name, self._epoch, offsets)

            try:
                ask(send)
            except GroupMoved as moved:
                if self._troubled:
                    raise BrokerUnavailable("in a transaction: a connection was lost") from moved
                raise
        self._end()
        if self._troubled or self._world.chance(self._connection.network.trouble):
            raise BrokerUnavailable("in a transaction: an error was reported beside")

    def _end(self) -> None:
        its, network = self._world, self._connection.network

        def end() -> None:
            self._cluster.end(self._id, self._epoch, commit=True)

        if its.chance(network.late_end):
            its.after(its.between(1_000, 2_000_000), self._late, end)
            its.sleep(its.between(100, 50_000))
            raise BrokerUnavailable("the end of a transaction was not answered")
        self._connection.ask(end)

    def _late(self, end: Callable[[], None]) -> None:
        try:
            end()
            self._world.note("kafka", "a late EndTxn counted", self._id)
        except BrokerUnavailable as error:
            self._world.note("kafka", "a late EndTxn", str(error))

    def close(self, timeout_ms: int) -> None:
        """See `Transactor.close`."""


def _records(outbound: Outbound) -> list[tuple[Position, Any]]:
    found: list[tuple[Position, Any]] = []
    for columns in outbound.columns:
        for i, p in enumerate(columns.partition.tolist()):
            found.append(((columns.topic, p), columns.values[i]))
    found += [((letter.topic, letter.partition), letter) for letter in outbound.letters]
    return found


class SimulatedWatermarks:
    """Implements `WatermarkLog`."""

    def __init__(self, connection: Connection) -> None:
        """Of the topic `watermarks`."""
        self._connection = connection

    async def read(self, starts: Mapping[int, int]) -> dict[int, tuple[list[Watermark], int]]:
        """See `WatermarkLog.read`.

        What is decided is read, also where its markers are still being written: else a mark that
        was committed a moment ago would be missed by the worker that goes back at that moment.
        """
        its, connection = self._connection.world, self._connection
        await asyncio.sleep(its.between(1, 2 * WAY_US_MAX) / 1e6)
        if connection.is_down or its.chance(connection.network.lost):
            await asyncio.sleep(its.between(1_000, REQUEST_US) / 1e6)
            raise BrokerUnavailable("nothing is heard of the watermarks' end")
        found = {}
        while connection.cluster.is_marking():  # noqa: ASYNC110 -- as a client polls
            await asyncio.sleep(RETRY_US / 1e6)
        for p, at in starts.items():
            log = connection.cluster.log((WATERMARKS, p))
            marks = [parse(value, GROUP) for _, value in log.committed(at)]
            found[p] = [mark for mark in marks if mark is not None], max(log.end(), at)
        await asyncio.sleep(its.between(1, WAY_US_MAX) / 1e6)
        return found

    def close(self) -> None:
        """See `WatermarkLog.close`."""
