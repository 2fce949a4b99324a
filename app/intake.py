"""The consumer's thread: polls from subscribe on, hands batches to the event loop, commits offsets.

Only this thread touches the `Source`. A bounded number of batches waits for the pipeline; when it
is full, partitions are paused and polling goes on, so that heartbeats and rebalances are never
late. On revoke it waits for what is in hand, commits it and lets go. Errors end the thread and
reach `get`.
"""

import asyncio
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from app.batching import BatchPolicy
from app.errors import BrokerUnavailable
from app.ledger import Ledger, Position, next_offsets
from app.metrics import Metrics
from app.ports import RebalanceListener, Source
from app.records import RecordBatch

log = structlog.get_logger("riskwire.intake")
_WAIT_MS = 100
_FULL_MS = 20
_PAUSE_AFTER_S = 0.25
_LAG_EVERY_S = 1.0
_REWIND_POLL_S = 0.005
_LEAVE_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Bounds of the intake; see the settings of the same names."""

    queue_batches_max: int
    commit_interval_ms: int
    drain_timeout_s: float


class Intake:
    """Batches of a consumer group, for one event loop."""

    def __init__(
        self,
        open_source: Callable[[RebalanceListener], Source],
        ledger: Ledger,
        policy: BatchPolicy,
        limits: IntakeLimits,
        metrics: Metrics,
    ) -> None:
        """`open_source` is called on the thread."""
        self._open, self.ledger, self.policy, self._limits = open_source, ledger, policy, limits
        self._metrics = metrics
        self._metrics.closed_by = policy.closed_by
        self._first: dict[Position, int] = {}  # polled since the assignment
        self._position: dict[Position, int] = {}
        self._given_up: set[Position] = set()
        self._lag_at = 0.0
        self._thread = threading.Thread(target=self._run, name="riskwire-intake", daemon=True)
        self._slots = threading.Semaphore(limits.queue_batches_max)
        self._stop, self._rewind, self._assigned = (threading.Event() for _ in range(3))
        self._held: deque[RecordBatch] = deque()
        self._source: Source | None = None
        self._commit_at = 0.0
        self._unconfirmed: dict[Position, int] = {}

    def start(self) -> None:
        """Start the thread; call it in the event loop that will `get`."""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[RecordBatch | BaseException] = asyncio.Queue()
        self._thread.start()

    async def get(self) -> RecordBatch:
        """The next batch, in order of arrival; raises what ended the thread."""
        batch = await self._queue.get()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def taken(self) -> None:
        """A batch left the queue for the pipeline: there is room for another."""
        self._slots.release()

    async def rewind(self) -> None:
        """Go back to the committed offsets; what was handed out before is not admitted any more.

        Returns when that is done, or the thread has ended.
        """
        self._rewind.set()
        # An asyncio.Event would not do: it is the thread that sees to it.
        while self._rewind.is_set() and not self._ended:  # noqa: ASYNC110 -- see above
            await asyncio.sleep(_REWIND_POLL_S)

    @property
    def has_ended(self) -> bool:
        """Whether the consumer's thread ran and runs no more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether the consumer's thread runs."""
        return self._thread.is_alive()

    @property
    def _ended(self) -> bool:
        return self._stop.is_set() or not self._thread.is_alive()

    @property
    def is_assigned(self) -> bool:
        """Whether the group has given out partitions (perhaps none to us)."""
        return self._assigned.is_set()

    async def stop(self) -> None:
        """Stop polling, wait for what is in hand, commit, leave the group."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, self._limits.drain_timeout_s + _LEAVE_S)
        if self._thread.is_alive():
            log.warning("Kafka does not let go in time; what was not committed will be done again")

    def _run(self) -> None:
        try:
            self._source = self._open(self)
            try:
                while not self._stop.is_set():
                    self._turn(self._source)
                self._drain(self._source)
            finally:
                self._source.close()
        except BaseException as error:  # noqa: BLE001 -- the event loop decides what to do
            self._deliver(error)

    def _turn(self, source: Source) -> None:
        if self._rewind.is_set() and not self._go_back(source):
            source.poll(1, _WAIT_MS, 0)  # the group needs it; its records will be read again
            return
        linger_ms = self.policy.linger_ms()
        self._given_up.clear()
        batches = source.poll(self.policy.records_max, _WAIT_MS, linger_ms)
        if batches:
            self.policy.closed(sum(map(len, batches)), linger_ms, batches[0].polled_us)
        self._hold(batches)
        while self._held and not self._stop.is_set() and not self._rewind.is_set():
            self._hand_over(source)
        self._commit(source, quiet=not batches)

    def _hold(self, batches: Sequence[RecordBatch]) -> None:
        generation = self.ledger.generation
        for batch in batches:
            self._held.append(dataclasses.replace(batch, generation=generation))
            for p, offset in next_offsets(batch).items():
                at = (batch.topic, p)
                self._position[at] = offset
                if at not in self._first:
                    self._first[at] = int(batch.offset[batch.partition == p][0])

    def _hand_over(self, source: Source) -> None:
        if not self._slots.acquire(timeout=_PAUSE_AFTER_S):
            self._wait_paused(source)
            return
        self._deliver(self._held.popleft())

    def _wait_paused(self, source: Source) -> None:
        paused = source.assignment()
        source.pause(list(paused))
        while not self._slots.acquire(timeout=0):
            self._hold(source.poll(1, _FULL_MS, 0))
            self._commit(source, quiet=False)
            if new := source.assignment() - paused:
                source.pause(list(new))
                paused |= new
            if self._stop.is_set() or self._rewind.is_set():
                break
        else:
            self._slots.release()
        source.resume(list(paused & source.assignment()))

    def _deliver(self, item: RecordBatch | BaseException) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _go_back(self, source: Source) -> bool:
        self._held.clear()
        owned = source.assignment()
        try:
            committed = source.committed(list(owned)) if owned else {}
            # Nothing is polled between the ledger's new generation and the seek that it stands for.
            self.ledger.rewound()
            targets = {at: o for at, o in self._first.items() if at in owned} | committed
            if targets:
                source.seek(targets)
        except BrokerUnavailable as error:
            log.warning("cannot go back yet; trying again", error=str(error))
            return False
        self._rewind.clear()
        log.warning("went back to the committed offsets", partitions=len(targets))
        return True

    def _commit(self, source: Source, *, quiet: bool) -> None:
        now = time.monotonic()
        if now < self._commit_at:
            return
        self._commit_at = now + self._limits.commit_interval_ms / 1000
        if now >= self._lag_at:
            self._lag_at = now + _LAG_EVERY_S
            self._measure_lag(source)
        offsets = self.ledger.committable()
        self._unconfirmed |= offsets
        if offsets and not quiet:
            source.commit(offsets, wait=False)
            self._metrics.commit(ok=True)
        elif self._unconfirmed and quiet:
            # An asynchronous commit may have failed unseen: a quiet moment confirms the last ones.
            self._commit_and_wait(source, self._unconfirmed)

    def _commit_and_wait(self, source: Source, offsets: dict[Position, int]) -> None:
        try:
            source.commit(offsets, wait=True)
            self._metrics.commit(ok=True)
        except BrokerUnavailable as error:
            self._metrics.commit(ok=False)
            log.warning("offsets not committed; they will be again", error=str(error))
            return
        self._unconfirmed = {at: o for at, o in self._unconfirmed.items() if at not in offsets}

    def _measure_lag(self, source: Source) -> None:
        ends = source.ends()
        self._metrics.lag({at: end - self._position.get(at, end) for at, end in ends.items()})

    def assigned(self, partitions: Sequence[Position]) -> None:
        """See `RebalanceListener.assigned`."""
        self.ledger.assigned(partitions)
        if self._given_up & set(partitions):
            # Given up and back within one poll: its records of before and after look alike.
            self._rewind.set()
        self._assigned.set()
        log.info("partitions assigned", partitions=sorted(p for _, p in partitions))

    def revoked(self, partitions: Sequence[Position], *, lost: bool) -> None:
        """See `RebalanceListener.revoked`."""
        self.ledger.released(partitions)
        if not lost and self._source is not None:
            # On stop `_drain` has waited already, and then closing revokes.
            timeout_s = 0.0 if self._stop.is_set() else self._limits.drain_timeout_s
            if not self.ledger.wait_idle(set(partitions), timeout_s):
                log.warning("gave up partitions with work in hand; it will be done again")
            mine = {at: o for at, o in self._offsets().items() if at in set(partitions)}
            if mine:
                self._commit_and_wait(self._source, mine)
        self.ledger.forget(partitions)
        for at in partitions:
            self._unconfirmed.pop(at, None)
            self._position.pop(at, None)
            self._first.pop(at, None)
        self._given_up |= set(partitions)
        log.info("partitions given up", partitions=sorted(p for _, p in partitions), lost=lost)

    def _offsets(self) -> dict[Position, int]:
        self._unconfirmed |= self.ledger.committable()
        return self._unconfirmed

    def _drain(self, source: Source) -> None:
        self.ledger.released(source.assignment())
        if not self.ledger.wait_idle(None, self._limits.drain_timeout_s):
            log.warning("stopped with work in hand; it will be done again")
        if offsets := dict(self._offsets()):
            self._commit_and_wait(source, offsets)
