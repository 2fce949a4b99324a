"""The way out exactly once: outputs and input offsets of whole batches in one Kafka transaction.

Batches that are decided on wait here; a thread takes all that wait, encodes them, and commits them
with the offsets that they complete, while the next ones are scored. Whatever goes wrong in a
transaction leaves it in doubt (KAFKA-17754: a late commit may decide a later transaction), so there
is one answer to it: the producer is thrown away, its id is fenced, all partitions are claimed again
from the offsets that Kafka has, and a new incarnation goes on. Only where Kafka has refused the
offsets, since the group has moved on, is nothing in doubt: the same outputs go again under the same
id. No transaction is ever aborted by the producer that began it.
"""

import asyncio
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from app.delivery import Output
from app.errors import BrokerUnavailable, GroupMoved
from app.intake import Intake
from app.ports import Transactor

log = structlog.get_logger("riskwire.transactions")
_ROOM_POLL_S = 0.001
_LOOK_S = 0.1
_INTERVAL_S_MIN, _INTERVAL_S_MAX = 0.003, 0.05
_REST_SHARE, _LARGE_RECORDS = 1 / 4, 2048
"""The rest after a transaction, as a share of its time; after a large one it is all of it."""
_RETRY_FIRST_S, _RETRY_LONGEST_S = 0.5, 15.0
MOVED_MAX = 60
"""So often the same outputs go again, some seconds long, until a rebalance that is not over is
taken for doubt."""
STUCK_S = 45
"""Three calls of a transaction may take ten seconds each."""
NOT_BEGUN = float("inf")
_CLOSE_S = 0.5
_BATCHES_MAX = 1000


class _Waiting(NamedTuple):
    ticket: int
    output: Output


class TransactionalDelivery:
    """One incarnation of a producer at a time; implements `Deliverer`."""

    def __init__(
        self,
        open_transactor: Callable[[str], Transactor],
        intake: Intake,
        prefix: str,
        began: Callable[[str], None],
        records_max: int,
        bytes_max: int = 1 << 26,
    ) -> None:
        """Nothing is opened before `open`.

        Transactional ids begin with `prefix`; `began` is told of each before it is used. At most
        `records_max` outbound records of `bytes_max` wait, and twice as many with those of a
        transaction.
        """
        self._open_transactor, self._intake, self._prefix = open_transactor, intake, prefix
        self._began, self._records_max, self._bytes_max = began, records_max, bytes_max
        self._waiting: deque[_Waiting] = deque()
        self._records = self._bytes = 0
        self._sending: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._fault: BaseException | None = None
        self._interval_s = _INTERVAL_S_MIN
        self._begun_s = NOT_BEGUN
        self._retry_s = _RETRY_FIRST_S
        self._thread = threading.Thread(target=self._run, name="riskwire-commit", daemon=True)
        self._id, self._is_stale = "", False
        self.failing = ""

    def open(self) -> None:
        """See `Deliverer.open`."""
        self.renew()
        self._thread.start()

    def renew(self) -> None:
        """Go on under another id, from the next transaction on; any thread may call.

        For when the old one stands with a partition that is ours no longer: who owns it next
        fences it. All partitions are to be claimed again, so that the new one stands with them.
        """
        with self._changed:
            self._id = f"{self._prefix}.{uuid.uuid4().hex[:12]}"
            self._is_stale = True
            self._began(self._id)

    async def send(self, output: Output, ticket: int) -> bool:
        """See `Deliverer.send`; raises what ended the thread.

        None goes before an older one, which would have its offsets committed without it.
        """
        self._sending.add(ticket)
        try:
            while self._intake.ledger.is_open(ticket):
                if ticket == min(self._sending) and self._put(output, ticket):
                    return True
                await asyncio.sleep(_ROOM_POLL_S)
            return False
        finally:
            self._sending.discard(ticket)

    def _put(self, output: Output, ticket: int) -> bool:
        with self._changed:
            if self._fault is not None:
                raise self._fault
            if self.is_stuck:
                raise BrokerUnavailable(f"a transaction does not end: {STUCK_S} s and more")
            fits = not self._waiting or (
                self._records + output.count <= self._records_max
                and self._bytes + output.nbytes <= self._bytes_max
            )
            fits &= len(self._waiting) < _BATCHES_MAX
            if fits or not output.waits:
                self._waiting.append(_Waiting(ticket, output))
                self._records += output.count
                self._bytes += output.nbytes
                self._changed.notify()
                return True
            return False

    @property
    def is_stuck(self) -> bool:
        """Whether a transaction takes longer than its calls may: the worker must start anew."""
        return time.monotonic() > self._begun_s + STUCK_S

    async def close(self) -> None:
        """See `Deliverer.close`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def _run(self) -> None:
        transactor: Transactor | None = None
        moved = 0
        try:
            while not self._closed:
                if transactor is None and (transactor := self._opened()) is None:
                    continue
                taken = self._take()
                if self._is_stale or transactor.is_troubled():
                    # No transaction is open: nothing is in doubt, and trouble asks for no other id.
                    self._give_back(taken)
                    transactor.close(0)
                    transactor = None
                    continue
                try:
                    self._transact(transactor, taken)
                    moved = 0
                except BrokerUnavailable as error:
                    transactor.close(0)
                    transactor = None
                    if isinstance(error, GroupMoved) and moved < MOVED_MAX:
                        moved += 1
                        self._try_again(taken, error, moved)
                    elif not self._doubt(error):
                        break
        except BaseException as fault:  # noqa: BLE001 -- the event loop raises it
            self._fault = fault
            self._intake.fail(fault)
        finally:
            if transactor is not None:
                transactor.close(0)

    def _opened(self) -> Transactor | None:
        """A producer; None after a while where there is none to be had."""
        self._is_stale = False
        try:
            transactor = self._open_transactor(self._id)
        except BrokerUnavailable as error:
            self.failing = f"no transactions: {error}"
            log.warning("no transactions yet; trying again", error=str(error))
            self._pause()
            return None
        self.failing = ""
        return transactor

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, self._retry_s)
        self._retry_s = min(2 * self._retry_s, _RETRY_LONGEST_S)

    def _try_again(self, taken: list[_Waiting], error: GroupMoved, times: int) -> None:
        """Let what a moved group has refused go again, under the same id.

        No end was asked for, so nothing is in doubt; opening the id again ends the transaction.
        """
        if times == 1:
            log.info("the group has moved on; committing again", error=str(error))
        self._begun_s = NOT_BEGUN
        self._give_back(taken)
        if times > 1:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _INTERVAL_S_MAX)

    def _give_back(self, taken: list[_Waiting]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(taken))
            self._records += sum(each.output.count for each in taken)
            self._bytes += sum(each.output.nbytes for each in taken)

    def _take(self) -> list[_Waiting]:
        """All that waits, once something does and the last transaction is long enough ago."""
        with self._changed:
            while not self._waiting and not self._closed and not self._is_again():
                self._changed.wait(_LOOK_S)
            self._changed.wait_for(self._is_full, self._interval_s)
            taken = [*self._waiting]
            self._waiting.clear()
            self._records = self._bytes = 0
            return taken

    def _is_again(self) -> bool:
        """Whether offsets of quiet logs are to be committed again."""
        return self._intake.ledger.is_open(self._intake.again)

    def _is_full(self) -> bool:
        full = 2 * self._records >= self._records_max or 2 * self._bytes >= self._bytes_max
        return self._closed or full

    def _transact(self, transactor: Transactor, taken: list[_Waiting]) -> None:
        began_s, intake = time.monotonic(), self._intake
        self._begun_s = began_s
        with intake.border:
            its = [each for each in taken if intake.ledger.is_open(each.ticket)]
            tickets, again = [each.ticket for each in its], self._is_again()
            if again:
                tickets = sorted([*tickets, intake.again])
            completed = intake.ledger.offsets(tickets)
            outputs = [each.output for each in its if each.output.count]
            # With outputs the same offset is sent again: so the group says whether we are in it.
            least = 0 if again or outputs else 1
            offsets = {at: o for at, o in completed.items() if o >= intake.committed(at) + least}
            if outputs or offsets:
                group = intake.group_metadata()
                transactor.transact((output.encode() for output in outputs), offsets, group)
                intake.transacted(offsets)
            intake.ledger.done(tickets)
        self._begun_s = NOT_BEGUN
        for output in outputs:
            output.sent()
        self._retry_s = _RETRY_FIRST_S
        is_large = sum(output.count for output in outputs) > _LARGE_RECORDS
        rest_s = (1 if is_large else _REST_SHARE) * (time.monotonic() - began_s)
        self._interval_s = min(max(rest_s, _INTERVAL_S_MIN), _INTERVAL_S_MAX)

    def _doubt(self, error: BrokerUnavailable) -> bool:
        """Go on under a new id from what Kafka has; False if nothing may be committed any more.

        Who stops goes back no more. What waits comes after what is in doubt: it would commit
        offsets beyond it, while nobody has fenced the id.
        """
        self._begun_s = NOT_BEGUN
        self._intake.in_doubt()
        self.failing = f"outputs could not be committed: {error}"
        log.error(
            "a transaction is in doubt; going on from what Kafka has",
            error=str(error),
            transactional_id=self._id,
            retry_s=self._retry_s,
        )
        # The claim finds the old id with the state and fences it, unless nothing is owned.
        self.renew()
        self._pause()
        return not self._closed and self._intake.rewind_and_wait()
