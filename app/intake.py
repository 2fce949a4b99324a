"""The consumer's thread: polls from subscribe on, hands batches to the event loop.

Only this thread touches the `Source`. A bounded number of batches waits for the pipeline; when it
is full, partitions are paused and polling goes on, so that heartbeats and rebalances are never
late. Of partitions that were assigned nothing is handed out until their state is owned; then they
are read from where that state ends. On revoke it waits for what is in hand to be committed and lets
go. At least once, it commits by itself; else transactions do. Errors end the thread and reach
`get`.
"""

import asyncio
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import structlog

from app.batching import BatchPolicy
from app.breaker import Breaker
from app.errors import BrokerUnavailable
from app.ledger import Ledger, Position, next_offsets
from app.metrics import Metrics
from app.ports import RebalanceListener, Source, StateOwner
from app.records import RecordBatch

log = structlog.get_logger("riskwire.intake")
_WAIT_MS = 100
_FULL_MS = 20
_PAUSE_AFTER_S = 0.25
_LAG_EVERY_S = 1.0
_REWIND_POLL_S = 0.005
_CONFIRM_POLL_S = 0.01
_HEAR_S = 2.0
"""So long after a pause it is heard of the logs' ends again."""
_LEAVE_S = 1.5


@dataclasses.dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Bounds of the intake; see the settings of the same names."""

    queue_batches_max: int
    commit_interval_ms: int
    drain_timeout_s: float
    commits_itself: bool = True
    """Else transactions do, and say so by `transacted`."""
    commit_again_s: float = 3600.0
    """So often offsets of quiet logs are committed again: the group would forget them in days."""


class Intake:
    """Batches of a consumer group, for one event loop."""

    def __init__(
        self,
        open_source: Callable[[RebalanceListener], Source],
        ledger: Ledger,
        policy: BatchPolicy,
        limits: IntakeLimits,
        metrics: Metrics,
        owner: StateOwner,
        breakers: Mapping[str, Breaker] | None = None,
    ) -> None:
        """`open_source` is called on the thread; `breakers`, by topic, say what may be read."""
        self._open, self.ledger, self.policy, self._limits = open_source, ledger, policy, limits
        self._metrics = metrics
        self._metrics.closed_by = policy.closed_by
        self._owner, self.breakers = owner, breakers or {}
        self._position: dict[Position, int] = {}
        self._unclaimed: set[Position] = set()
        self._going_back = False
        self._confirmed: dict[Position, int] = {}
        self._lag_at = 0.0
        self.unreadable: Mapping[Position, str] = {}
        """See `Source.unreadable`; a second old at most."""
        self._thread = threading.Thread(target=self._run, name="riskwire-intake", daemon=True)
        self._slots = threading.Semaphore(limits.queue_batches_max)
        self._stop, self._rewind, self._assigned, self._confirm = (
            threading.Event() for _ in range(4)
        )
        self.border = threading.Lock()
        """Held in a transaction, and while what is in hand is dropped or the consumer closed."""
        self._held: deque[RecordBatch] = deque()
        self._source: Source | None = None
        self._left = False
        self._commit_at = 0.0
        self._commit_again_at = time.monotonic() + limits.commit_again_s
        self.again = 0
        """The ticket of offsets that a transaction is to commit again; see `Ledger.is_open`."""
        self._unconfirmed: dict[Position, int] = {}
        self._ends: Mapping[Position, int] = {}
        self._starts: dict[Position, int] = {}
        self._hears_at = 0.0
        self._wanted_held: frozenset[Position] = frozenset()
        self._logs_held: frozenset[Position] = frozenset()

    def start(self) -> None:
        """Start the thread; call it in the event loop that will `get`."""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[RecordBatch | BaseException] = asyncio.Queue()
        self._owner.start(self)
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

    def transacted(self, offsets: Mapping[Position, int]) -> None:
        """Know that a transaction has committed these next offsets; by the thread that did it."""
        self._confirmed |= offsets
        self._metrics.commit(ok=True)

    def in_doubt(self) -> None:
        """Know that a transaction's end is not known; by the thread that began it."""
        self._metrics.commit(ok=False)

    def group_metadata(self) -> object:
        """See `Source.group_metadata`; raises BrokerUnavailable once the consumer is closed."""
        if self._source is None or self._left:
            raise BrokerUnavailable("the consumer has left the group")
        return self._source.group_metadata()

    async def rewind(self) -> None:
        """Go back to the committed offsets; what was handed out before is not admitted any more.

        Returns when that is done, or the thread has ended.
        """
        await asyncio.to_thread(self.rewind_and_wait)

    def rewind_and_wait(self) -> bool:
        """`rewind`, for a thread of its own; False if the consumer's thread ended before."""
        self.go_back()
        while self._is_going_back:
            if self._ended:
                return False
            time.sleep(_REWIND_POLL_S)
        return True

    def hold(self, logs: set[Position]) -> None:
        """Read no more of these logs, and of all others again, from the next poll on."""
        self._wanted_held = frozenset(logs)

    async def confirmed(
        self, offsets: Mapping[Position, int], still: Callable[[], bool], *, but_one: bool = False
    ) -> bool:
        """Wait until these next offsets are committed for certain; False once `still` says no.

        All that was begun by now, or before the last batch if `but_one`, is acknowledged then.
        False also while it goes back: what a rewind has dropped is not open any more, but it is not
        committed either.
        """
        ledger = self.ledger
        ticket = ledger.last_admitted - 1 if but_one else ledger.last_ticket
        while not self._ended and not self._is_going_back and still():
            met = all(self._confirmed.get(at, -1) >= offset for at, offset in offsets.items())
            if met and self.ledger.is_done(ticket):
                return True
            self._confirm.set()
            await asyncio.sleep(_CONFIRM_POLL_S)
        return False

    def committed(self, at: Position) -> int:
        """The next offset of a partition that is committed for certain, -1 where it is unknown."""
        return self._confirmed.get(at, -1)

    def at_end(self) -> dict[Position, int]:
        """See `Commits.at_end`."""
        if self._is_going_back or time.monotonic() < self._hears_at:
            return {}
        return {
            at: -1 if self._position[at] == self._starts.get(at) else self._position[at]
            for at, end in self._ends.items()
            if self._position.get(at, -1) >= end > -1
            and at not in self._unclaimed
            and at not in self._logs_held  # nobody hears of its end
        }

    def ended(self, task: asyncio.Future[None]) -> None:
        """See `Commits.ended`."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Let `get` raise what ended another part of the worker; any thread may call."""
        self._deliver(error)

    def go_back(self) -> None:
        """See `Commits.go_back`."""
        self._rewind.set()

    @property
    def _is_going_back(self) -> bool:
        return self._rewind.is_set() or self._going_back

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
    def claiming(self) -> list[int]:
        """The partitions that were assigned and are not owned yet."""
        return sorted({partition for _, partition in tuple(self._unclaimed)})

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
                with self.border:
                    self._left = True
                self._source.close()
        except BaseException as error:  # noqa: BLE001 -- the event loop decides what to do
            self._deliver(error)

    def _turn(self, source: Source) -> None:
        if self._rewind.is_set():
            self._go_back(source)
        if self._unclaimed:
            self._claim(source)
        self._hold_logs(source)
        linger_ms = self.policy.linger_ms()
        batches = source.poll(self.policy.records_max, _WAIT_MS, linger_ms)
        if batches:
            self.policy.closed(sum(map(len, batches)), linger_ms, batches[0].polled_us)
        self._hold(batches)
        while self._held and not self._stop.is_set() and not self._rewind.is_set():
            self._hand_over(source)
        self._commit(source, quiet=not batches)

    def _hold(self, batches: Sequence[RecordBatch]) -> None:
        generation = self.ledger.generation
        for batch in self._claimed_only(batches):
            self._held.append(dataclasses.replace(batch, generation=generation))
            self._metrics.ages.polled(batch, self._confirmed)
            for p, offset in next_offsets(batch).items():
                self._position[batch.topic, p] = offset
            if (breaker := self.breakers.get(batch.topic)) is not None:
                breaker.took(time.monotonic())

    def _claimed_only(self, batches: Sequence[RecordBatch]) -> list[RecordBatch]:
        """Without records of partitions that are still to be claimed: these are read again."""
        if not self._unclaimed:
            return list(batches)
        kept = []
        for batch in batches:
            unclaimed = [p for topic, p in self._unclaimed if topic == batch.topic]
            rows = np.flatnonzero(~np.isin(batch.partition, unclaimed))
            if len(rows):
                kept.append(batch.take(rows))
        return kept

    def _hold_logs(self, source: Source) -> None:
        owned, now_s = source.assignment(), time.monotonic()
        broken = {topic for topic, breaker in self.breakers.items() if breaker.holds(now_s)}
        wanted = frozenset(at for at in owned if at in self._wanted_held or at[0] in broken)
        if wanted == self._logs_held:
            return
        source.resume(sorted((self._logs_held - wanted) & owned))
        source.pause(sorted(wanted))
        self._logs_held = wanted

    def _hand_over(self, source: Source) -> None:
        if not self._slots.acquire(timeout=_PAUSE_AFTER_S):
            self._wait_paused(source)
            return
        self._deliver(self._held.popleft())

    def _wait_paused(self, source: Source) -> None:
        paused = source.assignment()
        source.pause(list(paused))
        while not self._slots.acquire(timeout=0):
            self._hears_at = time.monotonic() + _HEAR_S
            self._hold(source.poll(1, _FULL_MS, 0))
            self._commit(source, quiet=False)
            if new := source.assignment() - paused:
                source.pause(list(new))
                paused |= new
            if self._stop.is_set() or self._rewind.is_set():
                break
        else:
            self._slots.release()
        source.resume(sorted((paused - self._logs_held) & source.assignment()))

    def _deliver(self, item: RecordBatch | BaseException) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _go_back(self, source: Source) -> None:
        """Drop all that is in hand; every partition is claimed again."""
        self._going_back = True
        self._rewind.clear()
        self._held.clear()
        with self.border:  # a transaction that is under way counts, or fails, first
            self.ledger.rewound()
        self._metrics.ages.forget()
        self._unclaimed |= source.assignment()
        self._going_back = bool(self._unclaimed)

    def _claim(self, source: Source) -> None:
        """Own the state of new partitions and read on from where it ends, unless it cannot be yet.

        Where they must wait they are paused, and all others go on.
        """
        wanted = sorted(self._unclaimed & source.assignment())
        try:
            if not self._owner.fence(sorted({p for _, p in wanted})):
                source.pause(wanted)
                return
            committed = source.committed(wanted)
            starts = self._owner.claim(sorted({p for _, p in wanted}), committed)
            if starts is None:
                source.pause(wanted)
                return
            oldest = source.beginnings() if wanted else {}
            gone = {at: o for at, o in oldest.items() if at in wanted and starts.get(at, 0) < o}
            if gone:
                self._owner.lacks(gone)
            starts = {at: max(starts.get(at, 0), oldest.get(at, 0)) for at in wanted}
            # Nothing is polled between the seek and the ledger's new generation.
            source.seek(starts)
            source.resume(wanted)
            self._logs_held -= set(wanted)
        except BrokerUnavailable as error:
            log.warning("partitions cannot be read yet; trying again", error=str(error))
            return
        self._confirmed |= {at: committed.get(at, -1) for at in wanted}
        self._position |= starts
        self._starts |= starts
        self._unconfirmed = {at: o for at, o in self._unconfirmed.items() if at not in starts}
        self.ledger.assigned(wanted)
        self._unclaimed -= set(wanted)
        self._going_back = False
        self._assigned.set()
        log.info("partitions are read", starts={f"{t}-{p}": o for (t, p), o in starts.items()})

    def _commit(self, source: Source, *, quiet: bool) -> None:
        now = time.monotonic()
        if now < self._commit_at and not self._confirm.is_set():
            return
        self._commit_at = now + self._limits.commit_interval_ms / 1000
        if now >= self._lag_at:
            self._lag_at = now + _LAG_EVERY_S
            self._measure_lag(source)
        if now >= self._commit_again_at:
            self._commit_again_at = now + self._limits.commit_again_s
            self._commit_quiet_again()
        offsets = self._committable()
        if self._unconfirmed and (quiet or self._confirm.is_set()):
            # An asynchronous commit may have failed unseen: this confirms the last ones.
            self._confirm.clear()
            self._commit_and_wait(source, self._unconfirmed)
        elif offsets:
            source.commit(offsets, wait=False)
            self._metrics.commit(ok=True)

    def _commit_quiet_again(self) -> None:
        """Of logs of which nothing is in hand: all others' offsets are committed anyway."""
        known = self._confirmed.copy()  # at once: another thread may confirm more
        quiet = {at: o for at, o in known.items() if 0 <= o == self._position.get(at)}
        if self._limits.commits_itself:
            self._unconfirmed = quiet | self._unconfirmed
        elif not self.ledger.is_open(self.again):  # else nobody would do what it stood for
            self.again = self.ledger.begin(quiet)

    def _committable(self) -> dict[Position, int]:
        """What may be committed since the last call; never less than what is committed."""
        found = self.ledger.committable()
        if not self._limits.commits_itself:
            self._confirm.clear()
            return {}
        offsets = {at: o for at, o in found.items() if o > self._confirmed.get(at, -1)}
        self._unconfirmed |= offsets
        return offsets

    def _commit_and_wait(self, source: Source, offsets: dict[Position, int]) -> None:
        try:
            source.commit(offsets, wait=True)
            self._metrics.commit(ok=True)
        except BrokerUnavailable as error:
            self._metrics.commit(ok=False)
            log.warning("offsets not committed; they will be again", error=str(error))
            return
        self._confirmed |= offsets
        self._unconfirmed = {at: o for at, o in self._unconfirmed.items() if at not in offsets}

    def _measure_lag(self, source: Source) -> None:
        reached = source.reached()
        # What follows the last record of a log that was read to its end are markers.
        self._ends = ends = {
            at: self._position.get(at, end) if reached.get(at) == end else end
            for at, end in source.ends().items()
        }
        self.unreadable = dict(source.unreadable())
        self._metrics.unreadable(len(self.unreadable))
        lags = {at: end - self._position.get(at, end) for at, end in ends.items()}
        self._metrics.lag(lags)
        self._metrics.ages.behind(lags)

    def assigned(self, partitions: Sequence[Position]) -> None:
        """See `RebalanceListener.assigned`."""
        self._unclaimed |= set(partitions)
        self._metrics.rebalance("assigned")
        if not partitions:
            self._assigned.set()
        log.info("partitions assigned", partitions=sorted({p for _, p in partitions}))

    def revoked(self, partitions: Sequence[Position], *, lost: bool) -> None:
        """See `RebalanceListener.revoked`."""
        self.ledger.released(partitions)
        self._ends = {at: end for at, end in self._ends.items() if at not in set(partitions)}
        was_lost = lost
        if not lost and self._source is not None:
            # On stop `_drain` has waited already, and then closing revokes.
            timeout_s = 0.0 if self._stop.is_set() else self._limits.drain_timeout_s
            if not self.ledger.wait_idle(set(partitions), timeout_s):
                log.warning("gave up partitions with work in hand; it will be done again")
                lost = True  # to the state: what is in memory is not what is committed
            self._committable()
            mine = {at: o for at, o in self._unconfirmed.items() if at in set(partitions)}
            if mine:
                self._commit_and_wait(self._source, mine)
        if lost and not self._limits.commits_itself:
            self._drop_all(_LEAVE_S if was_lost else 0.0)
        unclaimed = {p for _, p in self._unclaimed & set(partitions)}
        self._owner.release(sorted({p for _, p in partitions} - unclaimed), lost=lost)
        self._owner.release(sorted(unclaimed), lost=True)
        self._unclaimed -= set(partitions)
        self.ledger.forget(partitions)
        self._metrics.ages.forget(set(partitions))
        self._metrics.rebalance("lost" if lost else "revoked")
        for known in (self._unconfirmed, self._position, self._starts, self._confirmed):
            for at in partitions:
                known.pop(at, None)
        log.info("partitions given up", partitions=sorted({p for _, p in partitions}), lost=lost)

    def _drop_all(self, timeout_s: float) -> None:
        """Let nothing that is in hand be committed: it goes out with what is ours no longer.

        A transaction that does not end in time fails: who owns the state next fences it.
        """
        held = self.border.acquire(timeout=timeout_s)
        self.go_back()  # first: nobody may take what is dropped for done
        self.ledger.rewound()
        if held:
            self.border.release()

    def _drain(self, source: Source) -> None:
        self.ledger.released(source.assignment())
        if not self.ledger.wait_idle(None, self._limits.drain_timeout_s):
            log.warning("stopped with work in hand; it will be done again")
        self._committable()
        end_s = time.monotonic() + _LEAVE_S
        while self._unconfirmed:
            self._commit_and_wait(source, dict(self._unconfirmed))
            if time.monotonic() > end_s:
                break
            if self._unconfirmed:
                source.poll(1, _WAIT_MS, 0)  # serves the rebalance that was in the way
