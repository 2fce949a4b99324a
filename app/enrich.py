"""Stage 2: accepted transactions become feature vectors, and the state knows them from then on.

`Enrich` finds the rows of the live state, reads what is missing in one round trip, and runs the
kernel over the batch in log order. Outcomes take the same way without a vector. It waits while the
store is away, and for a flush where the state is full: a batch is late, but never lost.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.backoff import Backoff
from app.entities import TableFull
from app.labels import Labels
from app.live import Live, Outdated, Pending
from app.ports import Clock, StateStore
from app.records import Float32s, RecordBatch, Transactions
from features.state import LABELS, TRANSACTIONS, Flags


class Dropped(Exception):  # noqa: N818 -- no fault: the batch comes again
    """While the batch waited, partitions of it were claimed anew or given up."""


@dataclass(frozen=True, slots=True, eq=False)
class Enrich:
    """The live state with what it needs from outside; `flush` makes room in it."""

    live: Live
    store: StateStore
    clock: Clock
    backoff: Backoff
    flush: Callable[[], Awaitable[None]]

    async def vectors(
        self, records: RecordBatch, transactions: Transactions
    ) -> tuple[Float32s, Flags]:
        """The feature matrix float32 (n, WIDTH), and whether each row is provisional, bool (n,).

        `records` is the batch that the transactions came from: all of it is in the state then.
        """
        pending = await self._found(records, lambda: self.live.lookup(transactions, self.clock()))
        self.live.applied(TRANSACTIONS, records)
        return self.live.advance(transactions, pending)

    async def learn(self, records: RecordBatch, labels: Labels) -> None:
        """Let the state know outcomes."""
        pending = await self._found(records, lambda: self.live.lookup_labels(labels))
        self.live.applied(LABELS, records)
        self.live.learn(labels, pending)

    async def _found(self, records: RecordBatch, lookup: Callable[[], Pending]) -> Pending:
        before = self.live.handovers[records.partition]
        while True:
            try:
                pending = lookup()
            except TableFull:
                await self.flush()
                if (self.live.handovers[records.partition] != before).any():
                    raise Dropped from None
            else:
                break
        blobs: list[bytes | None] = []
        if pending.keys:
            blobs = await self.backoff.until_available("Redis", self.store.fetch, pending.keys)
        try:
            self.live.take(pending, blobs)
        except Outdated:
            self.live.drop(tuple(self.live.owned))  # nobody works with it until it is claimed anew
            raise Dropped from None
        return pending
