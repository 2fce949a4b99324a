"""Stage 2: accepted transactions become feature vectors, and the state knows them from then on.

`Enrich` finds the rows of the live state, reads what is missing in one round trip, and runs the
kernel over the batch in log order. Outcomes take the same way without a vector. It waits while the
store is away, and for a flush where the state is full: a batch is late, but never lost. With an
`Outage` it waits for no store: what that does not give is done without.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.backoff import Backoff
from app.entities import TableFull
from app.labels import Labels
from app.live import Live, Outdated, Pending
from app.outage import Outage
from app.ports import Clock, StateStore
from app.records import Float32s, Int64s, RecordBatch, Transactions
from app.shed import FULL
from features.state import LABELS, TRANSACTIONS, Flags


class Dropped(Exception):  # noqa: N818 -- no fault: the batch comes again
    """While the batch waited, partitions of it were claimed anew or given up."""


class Vectors(NamedTuple):
    """The feature matrix float32 (n, WIDTH); whether each row is provisional, degraded: bool (n,).

    A degraded row has defaults in place of entities that could not be read.
    """

    matrix: Float32s
    provisional: Flags
    degraded: Flags

    def take(self, rows: Int64s) -> "Vectors":
        """Those at `rows`."""
        return Vectors(self.matrix[rows], self.provisional[rows], self.degraded[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Enrich:
    """The live state with what it needs from outside; `flush` makes room in it."""

    live: Live
    store: StateStore
    clock: Clock
    backoff: Backoff
    flush: Callable[[], Awaitable[None]]
    outage: Outage | None = None

    async def vectors(
        self, records: RecordBatch, transactions: Transactions, level: int = FULL
    ) -> Vectors:
        """The vectors of a batch, as thorough as the level of shedding says.

        `records` is the batch that the transactions came from: all of it is in the state then.
        """
        pending = await self._found(
            records, lambda: self.live.lookup(transactions, self.clock(), level)
        )
        self.live.applied(TRANSACTIONS, records)
        matrix, provisional = self.live.advance(transactions, pending, level)
        degraded = np.zeros(len(matrix), np.bool_)
        if self._is_lacking:
            degraded = self.live.without(matrix, pending)
        return Vectors(matrix, provisional, degraded)

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
                await self._room()
                if (self.live.handovers[records.partition] != before).any():
                    raise Dropped from None
            else:
                break
        blobs: list[bytes | None] | None = await self._read(pending) if pending.keys else []
        if blobs is None:
            self.live.lack(pending)
            return pending
        try:
            self.live.take(pending, blobs)
        except Outdated:
            self.live.drop(tuple(self.live.owned))  # nobody works with it until it is claimed anew
            raise Dropped from None
        return pending

    async def _room(self) -> None:
        if self.outage is None:
            await self.flush()
        elif self._is_lacking or not await self.outage.room(self.flush):
            self.live.lose()

    async def _read(self, pending: Pending) -> list[bytes | None] | None:
        """What Redis has of them; None where it is away and nobody waits for it.

        Nor where something is lacking still: it is claimed again first.
        """
        if self.outage is None:
            return await self.backoff.until_available("Redis", self.store.fetch, pending.keys)
        return None if self._is_lacking else await self.outage.fetch(pending.keys)

    @property
    def _is_lacking(self) -> bool:
        if self.outage is None:
            return False
        return self.outage.is_away or bool(self.live.lacking.partitions)
