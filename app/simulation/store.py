"""A simulated Redis: blobs, atomic flushes, and all that can happen to it.

A flush watches its guard and writes later, if nobody has touched it since, as `WATCH`, `MULTI` and
`EXEC` do. It may be away, lose requests or answers, let a flush count after its sender has given it
up, come back with older data, or lose all. What it is asked to hold is checked at that instant: no
partition's state may be ahead of the committed offsets.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from app.errors import StoreUnavailable
from app.meta import Meta
from app.simulation.data import TOPICS
from app.simulation.kafka import Cluster
from app.simulation.world import World

TIMEOUT_US = 100_000
WAY_US_MAX = 800

Pairs = Sequence[tuple[bytes, bytes | None]]


class Server:
    """One Redis, for all workers."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        """Empty."""
        self.world, self._cluster = world, cluster
        self.blobs: dict[bytes, bytes] = {}
        self.away = False
        self.lost = self.answer_lost = self.late = 0.0
        self.starts = self.losses = 0
        self._touched: dict[bytes, int] = {}
        self._clock = 0
        self._snapshots: list[dict[bytes, bytes]] = [{}]

    def keep(self) -> None:
        """Take a snapshot."""
        self._snapshots.append(dict(self.blobs))

    def restart(self, *, age: int | None = 0) -> None:
        """Crash and come back; as of so many snapshots ago, empty for None, or 0 with all."""
        self.starts += 1
        self.losses += age != 0
        if age is None:
            self.blobs = {}
        elif age:
            self.blobs = dict(self._snapshots[-min(age, len(self._snapshots))])
        self.world.note("redis", "restarted", str(age))

    def touched(self, key: bytes) -> tuple[int, int]:
        """Changes when a key is written, or a connection broken."""
        return self._touched.get(key, 0), self.starts

    def write(self, guard: bytes, new: bytes, pairs: Pairs) -> None:
        """Write, and delete where there is no value, at once."""
        self.delete([key for key, value in pairs if value is None])
        self._clock += 1
        self._touched[guard] = self._clock
        self.blobs |= {key: value for key, value in [*pairs, (guard, new)] if value is not None}
        if (meta := Meta.parse(new)) is not None:
            partition = int(guard[guard.index(b"{p") + 2 : guard.index(b"}")])
            self.world.note("redis", "meta", partition, meta.epoch, meta.owner, meta.next_offset)
            for topic, offset in zip(TOPICS, meta.next_offset, strict=True):
                committed = self._cluster.decided.get((topic, partition), 0)
                if offset > committed:
                    self.world.fault(
                        f"Redis is ahead: {topic}-{partition} at {offset}, committed {committed}"
                    )

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete at once."""
        self._clock += 1
        for key in keys:
            self._touched[key] = self._clock
            self.blobs.pop(key, None)


class SimulatedStore:
    """A worker's way to the server; implements `StateStore`."""

    def __init__(self, server: Server) -> None:
        """It is there; whether anything gets through is another question."""
        self._server, self._world = server, server.world

    async def _go(self) -> None:
        its, server = self._world, self._server
        await asyncio.sleep(its.between(1, WAY_US_MAX) / 1e6)
        if server.away or its.chance(server.lost):
            await self._give_up()

    async def _come(self) -> None:
        its, server = self._world, self._server
        if server.away or its.chance(server.answer_lost):
            await self._give_up()
        await asyncio.sleep(its.between(1, WAY_US_MAX) / 1e6)

    async def _give_up(self) -> None:
        soon = self._world.chance(0.5)
        us = self._world.between(100, 5_000) if soon else TIMEOUT_US
        await asyncio.sleep(us / 1e6)
        raise StoreUnavailable("the simulated Redis does not answer")

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `StateStore.fetch`."""
        if not keys:
            return []
        await self._go()
        found = [self._server.blobs.get(key) for key in keys]
        await self._come()
        return found

    async def flush(
        self,
        guard: bytes,
        expected: bytes | None,
        new: bytes,
        pairs: Pairs,
    ) -> bool:
        """See `StateStore.flush`."""
        its, server = self._world, self._server
        await self._go()
        seen, found = server.touched(guard), server.blobs.get(guard)
        if found != expected:
            await self._come()
            return False
        await self._come()
        if its.chance(server.late):
            its.after(its.between(1_000, 1_000_000), self._late, guard, seen, new, pairs)
            await self._give_up()
        await self._go()
        if server.touched(guard)[1] != seen[1]:
            raise StoreUnavailable("the connection broke in a transaction")
        done = server.touched(guard) == seen
        if done:
            server.write(guard, new, pairs)
        await self._come()
        return done

    def _late(
        self,
        guard: bytes,
        seen: tuple[int, int],
        new: bytes,
        pairs: Pairs,
    ) -> None:
        if self._server.touched(guard) == seen:
            self._world.note("redis", "a late flush counted")
            self._server.write(guard, new, pairs)

    async def delete(self, prefix: bytes) -> None:
        """See `StateStore.delete`."""
        keys = [key async for key in self.scan(prefix)]
        for at in range(0, len(keys), 3):
            await self._go()
            self._server.delete(keys[at : at + 3])
            await self._come()

    async def scan(self, prefix: bytes) -> AsyncIterator[bytes]:
        """See `StateStore.scan`."""
        await self._go()
        keys = [key for key in self._server.blobs if key.startswith(prefix)]
        await self._come()
        for key in keys:
            yield key
