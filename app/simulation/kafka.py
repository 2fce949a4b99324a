"""A Kafka cluster as far as exactly once rests on it: logs, offsets of a group, transactions.

A transaction's records have one `Outcome`; readers of committed records stop at the first one that
is open. A transactional id has a producer epoch, which `init` raises, after it has aborted what was
open; whoever comes with an older one is refused. An EndTxn counts for whatever transaction is open
when it arrives, if the epoch is right: that is KAFKA-17754. Markers are written a while after the
decision, and offsets count from then on; until then they are unstable, and who asks for them waits.
All calls here happen at once; `clients` has the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import BrokerUnavailable
from app.ledger import Position
from app.simulation.world import World

MARKERS_US_MAX, MARKERS_US_LONG = 30_000, 600_000
TRANSACTION_US = 3_000_000
REFUSED = "refused: "
"""How the message of an answer that is no begins; everything else is the network."""


class Outcome:
    """What becomes of a transaction."""

    def __init__(self, began_us: int) -> None:
        """Open."""
        self.began_us = began_us
        self.committed: bool | None = None
        self.offsets: dict[Position, int] = {}
        self.partitions: set[Position] = set()
        self.is_decided = False


@dataclass(slots=True)
class Entry:
    """A record; None stands for a marker, or for another hole in the offsets."""

    value: Any
    outcome: Outcome | None


@dataclass(slots=True)
class Producer:
    """A transactional id, as its coordinator knows it."""

    epoch: int = -1
    open: Outcome | None = None
    last: Outcome | None = None


@dataclass(slots=True)
class Log:
    """A partition."""

    entries: list[Entry] = field(default_factory=list)
    stable: int = 0
    """Up to where no transaction is open, as far as it was looked."""

    def end(self) -> int:
        """The last stable offset: what readers of committed records take for the end."""
        entries = self.entries
        while self.stable < len(entries):
            outcome = entries[self.stable].outcome
            if outcome is not None and outcome.committed is None:
                break
            self.stable += 1
        return self.stable

    def committed(self, start: int = 0) -> list[tuple[int, Any]]:
        """Offsets and values of the committed records from one on."""
        return [
            (offset, entry.value)
            for offset, entry in enumerate(self.entries[start : self.end()], start)
            if entry.value is not None and (entry.outcome is None or entry.outcome.committed)
        ]


class Cluster:
    """All logs, one group's offsets, all producers."""

    def __init__(self, world: World) -> None:
        """Empty."""
        self.world = world
        self.logs: dict[Position, Log] = {}
        self.offsets: dict[Position, int] = {}
        self.decided: dict[Position, int] = {}
        """Offsets of which it is certain that they will be committed, once the marker is there."""
        self.unstable: dict[Position, int] = {}
        self.producers: dict[str, Producer] = {}
        self.away = False
        self.appended: list[Any] = []
        """Who wants to be told that there is something to read."""

    def log(self, at: Position) -> Log:
        """A partition's log, which is made at first use."""
        return self.logs.setdefault(at, Log())

    def append(self, at: Position, value: Any, outcome: Outcome | None = None) -> None:
        """Add a record, or a hole."""
        self.log(at).entries.append(Entry(value, outcome))
        if outcome is None:
            self._tell()

    def _tell(self) -> None:
        for tell in self.appended:
            tell()

    # --- transactions

    def init(self, transactional_id: str) -> int:
        """Abort what is open of an id, and fence who used it; the new epoch."""
        producer = self.producers.setdefault(transactional_id, Producer())
        self._refuse_busy(producer)
        if producer.open is not None:
            self._decide(producer, commit=False)
        producer.epoch += 1
        self.world.note("kafka", "init", transactional_id, producer.epoch)
        return producer.epoch

    def produce(
        self, transactional_id: str, epoch: int, records: Sequence[tuple[Position, Any]]
    ) -> None:
        """Add records to the id's transaction, which begins with the first of them."""
        outcome = self._open(transactional_id, epoch)
        for at, value in records:
            outcome.partitions.add(at)
            self.append(at, value, outcome)

    def send_offsets(
        self, transactional_id: str, epoch: int, offsets: Mapping[Position, int]
    ) -> None:
        """Let offsets be committed with the id's transaction."""
        outcome = self._open(transactional_id, epoch)
        for at, offset in offsets.items():
            if at not in outcome.offsets:
                self.unstable[at] = self.unstable.get(at, 0) + 1
            outcome.offsets[at] = offset

    def end(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        """Decide the transaction that is open now: EndTxn."""
        producer = self._producer(transactional_id, epoch)
        if producer.open is not None:
            self._refuse_busy(producer)
            self._decide(producer, commit=commit)
        elif producer.last is None or producer.last.committed is not commit:
            raise BrokerUnavailable(REFUSED + "INVALID_TXN_STATE")

    def _producer(self, transactional_id: str, epoch: int) -> Producer:
        producer = self.producers[transactional_id]
        if producer.epoch != epoch:
            raise BrokerUnavailable(REFUSED + "INVALID_PRODUCER_EPOCH")
        return producer

    def _refuse_busy(self, producer: Producer) -> None:
        if _unfinished(producer):
            raise BrokerUnavailable(REFUSED + "CONCURRENT_TRANSACTIONS")

    def _open(self, transactional_id: str, epoch: int) -> Outcome:
        producer = self._producer(transactional_id, epoch)
        self._refuse_busy(producer)
        if producer.open is None:
            producer.open = outcome = Outcome(self.world.now_us)
            self.world.after(TRANSACTION_US, self._time_out, transactional_id, outcome)
        return producer.open

    def _time_out(self, transactional_id: str, outcome: Outcome) -> None:
        producer = self.producers[transactional_id]
        if producer.open is outcome and not outcome.is_decided:
            self.world.note("kafka", "transaction timed out", transactional_id)
            producer.epoch += 1
            self._decide(producer, commit=False)

    def _decide(self, producer: Producer, *, commit: bool) -> None:
        outcome = producer.open
        assert outcome is not None  # noqa: S101 -- the callers have looked
        outcome.is_decided = True
        producer.open, producer.last = None, outcome
        self.world.note("kafka", "decided", commit, sorted(outcome.offsets.items()))
        for at, offset in outcome.offsets.items() if commit else ():
            if offset < self.decided.get(at, 0):
                self.world.fault(
                    f"the offset of {at} goes back from {self.decided[at]} to {offset}"
                )
            self.decided[at] = offset
        longest_us = MARKERS_US_LONG if self.world.chance(0.05) else MARKERS_US_MAX
        self.world.after(self.world.between(0, longest_us), self._mark, outcome, commit)

    def _mark(self, outcome: Outcome, commit: bool) -> None:  # noqa: FBT001 -- of a timer
        outcome.committed = commit
        for at in sorted(outcome.partitions):
            self.append(at, None, outcome)
        for at, offset in outcome.offsets.items():
            self.unstable[at] -= 1
            if commit:
                self.offsets[at] = offset
        self._tell()

    def is_marking(self) -> bool:
        """Whether a decided transaction's markers are still to be written."""
        return any(_unfinished(producer) for producer in self.producers.values())

    def open_transactions(self) -> list[str]:
        """The ids of which a transaction is open."""
        return [i for i, p in self.producers.items() if p.open is not None or _unfinished(p)]


def _unfinished(producer: Producer) -> bool:
    last = producer.last
    return last is not None and last.committed is None
