"""How complete the logs are known to be: what owners have declared, and what we declare of ours.

A log that was read to its end and stays quiet is declared complete up to a time, by a record of the
watermarks' topic; what others have declared of our partitions before is read there, and how far the
owners of other partitions are is read from Redis.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from app.backoff import Backoff
from app.errors import Unavailable
from app.live import Live
from app.meta import Meta
from app.ports import Clock, Commits, StateStore
from app.quiet import QuietLogs
from app.watermarks import Announcer, Watermark, WatermarkLog
from features.blob import meta_key

READ_US, READ_SOON_US = 600_000_000, 1_000_000
Read = tuple[Sequence[Watermark], int]
"""Watermarks of a partition, and from which record of theirs on the next are to be read."""


class Marks:
    """Lets the live state know; `lock` is held by whoever works on that."""

    def __init__(
        self,
        live: Live,
        store: StateStore,
        log: WatermarkLog,
        topics: tuple[str, str],
        clock: Clock,
        lock: asyncio.Lock,
        backoff: Backoff,
    ) -> None:
        """`topics` are transactions and labels."""
        self._live, self._store, self.log = live, store, log
        self._clock, self._lock, self._backoff = clock, lock, backoff
        self.quiet = QuietLogs(live, topics)
        self._read_at_us, self._read_soon_us = self._clock() + READ_US, 0

    def know(self, partition: int, read: Read) -> None:
        """Let a partition's watermarks hold, each from its position on."""
        marks, self._live.next_mark[partition] = read
        for mark in marks:
            self._live.declare(partition, mark)

    async def read_now_and_then(self) -> None:
        """What we have declared ourselves need not be read by the next owner then."""
        if self._clock() >= self._read_at_us:
            self._read_at_us = self._clock() + READ_US
            with suppress(Unavailable):
                await self._read()

    async def _read(self) -> None:
        """Know the watermarks of owned partitions that came since they were read last."""
        starts = {p: self._live.next_mark[p] for p in self._live.owned}
        found = await self.log.read(starts)
        async with self._lock:
            for partition, read in found.items():
                if self._live.next_mark.get(partition) == starts[partition]:
                    self.know(partition, read)

    async def declare_quiet(
        self,
        commits: Commits,
        announcer: Announcer,
        moving: Collection[int],
        is_waiting: Callable[[], bool],
    ) -> None:
        """Declare logs complete that were read to their end and have been quiet since.

        Not those of partitions that are `moving`. What is declared holds at once. Its ticket is
        older than those of all outputs that rest on it, so that committed offsets stand for what
        the topic says too; but no batch may be waiting for room, which has an older one.
        """
        async with self._lock:
            if is_waiting():
                return
            ends = {at: end for at, end in commits.at_end().items() if at[1] not in moving}
            declared = self.quiet.found(ends, self._clock())
            if not declared:
                return
            for partition, mark in declared:
                self._live.declare(partition, mark)
            ticket = announcer.begin(declared)
        # Not under the lock: where the outputs fail, everything is claimed again, which takes it.
        await announcer.send(declared, ticket)

    async def hear_others(self) -> None:
        """Know how far the owners of other partitions are, and what was declared of ours."""
        live = self._live
        keys = {
            q: meta_key(live.namespace, q) for q in range(live.partitions) if q not in live.owned
        }
        found = await self._backoff.until_available("Redis", self._store.fetch, [*keys.values()])
        async with self._lock:
            for partition, value in zip(keys, found, strict=True):
                if (meta := Meta.parse(value)) is not None:
                    live.hear(partition, meta)
        if self._clock() >= self._read_soon_us:
            self._read_soon_us = self._clock() + READ_SOON_US
            with suppress(Unavailable):
                await self._read()
