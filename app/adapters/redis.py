"""Redis behind `ports.StateStore`: blobs by key; the only module that imports redis-py.

`fetch` is one MGET for each hash tag, all in one round trip. `flush` is one transaction under a
watched guard; its pairs go out in chunks, each with a time-out of its own, so that its size is
bounded by the server's memory alone. `write` (for backfill) sends chunks of MSET down one pipeline.
A connection that broke while idle is opened again; every other failure of redis-py, the socket or
the time-out is StoreUnavailable, whose message names the server and never the password. A URL that
is none is a ConfigError. One RedisStore belongs to one event loop.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.errors import ConfigError, StoreUnavailable

WRITE_PAIRS_MAX = 1000
PIPELINE_CHUNKS_MAX = 16
CHUNK_BYTES_MAX = 1 << 18
_EXEC_S_PER_CHUNK = 0.01
_SCAN_COUNT = 1000
_GLOB = re.compile(rb"([*?\[\]\\])")


class RedisStore:
    """Blobs in one Redis server."""

    def __init__(self, url: SecretStr, timeout_ms: int) -> None:
        """Prepare a client; connects at first use. Raises ConfigError on a malformed URL."""
        self._timeout_s = timeout_ms / 1000
        try:
            self._client: Redis = Redis.from_url(
                url.get_secret_value(),
                decode_responses=False,
                protocol=2,
                # The time-outs are ours: redis-py's go by wait_for, which before Python 3.12 can
                # swallow a cancel, and where one is given for a reply it is None when that is over.
                socket_timeout=None,
                socket_connect_timeout=None,
                retry=Retry(NoBackoff(), 0),  # the caller knows when to try again
            )
        except ValueError as error:
            msg = f"RISKWIRE_REDIS_URL is no redis://, rediss:// or unix:// address: {error}"
            raise ConfigError(msg) from None
        where = self._client.connection_pool.connection_kwargs
        self.address: str = where.get("path") or (
            f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        )

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `StateStore.fetch`."""
        if not keys:
            return []
        groups = _by_tag(keys)
        async with self._answering(), self._client.pipeline(transaction=False) as pipe:
            for group in groups:
                pipe.mget([keys[i] for i in group])
            answers = await pipe.execute()
        found: list[bytes | None] = [None] * len(keys)
        for group, blobs in zip(groups, answers, strict=True):
            for i, blob in zip(group, blobs, strict=True):
                found[i] = blob
        return found

    async def flush(
        self,
        guard: bytes,
        expected: bytes | None,
        new: bytes,
        pairs: Sequence[tuple[bytes, bytes | None]],
    ) -> bool:
        """See `StateStore.flush`."""
        pool = self._client.connection_pool
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                return await _swap(connection, self._timeout_s, guard, expected, new, pairs)
            except BaseException:
                # Half a transaction must not wait there for the next who takes the connection.
                await connection.disconnect(nowait=True)
                raise
            finally:
                await asyncio.shield(pool.release(connection))

    async def delete(self, prefix: bytes) -> None:
        """See `StateStore.delete`."""
        keys = [key async for key in self.scan(prefix)]
        for at in range(0, len(keys), WRITE_PAIRS_MAX):
            async with self._answering():
                await self._client.unlink(*keys[at : at + WRITE_PAIRS_MAX])

    async def scan(self, prefix: bytes) -> AsyncIterator[bytes]:
        """See `StateStore.scan`."""
        pattern, cursor = _GLOB.sub(rb"\\\1", prefix) + b"*", 0
        while True:
            async with self._answering():
                cursor, keys = await self._client.scan(cursor, pattern, _SCAN_COUNT)
            for key in keys:
                yield cast("bytes", key)  # there is no decode_responses
            if cursor == 0:
                return

    async def write(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store blobs by key, WRITE_PAIRS_MAX an MSET; raises StoreUnavailable.

        Chunks written before a failure stay written: the same call again completes them.
        """
        size = WRITE_PAIRS_MAX * PIPELINE_CHUNKS_MAX
        for start in range(0, len(pairs), size):
            end = min(start + size, len(pairs))
            async with self._answering(), self._client.pipeline(transaction=False) as pipe:
                for at in range(start, end, WRITE_PAIRS_MAX):
                    pipe.mset(dict(pairs[at : min(at + WRITE_PAIRS_MAX, end)]))
                await pipe.execute()

    async def ping(self) -> None:
        """Return if the server answers; raises StoreUnavailable."""
        async with self._answering():
            await self._client.ping()

    async def close(self) -> None:
        """Close all connections; safe to call again."""
        await self._client.aclose()

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            msg = f"Redis at {self.address} does not answer: {str(error) or type(error).__name__}"
            raise StoreUnavailable(msg) from error


def _by_tag(keys: Sequence[bytes]) -> list[list[int]]:
    """Indices of keys by what stands before the first `}`: keys of one hash tag, so of one slot."""
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        head, closed, _ = key.partition(b"}")
        groups.setdefault(head if closed else b"", []).append(i)
    return list(groups.values())


async def _swap(
    connection: AbstractConnection,
    timeout_s: float,
    guard: bytes,
    expected: bytes | None,
    new: bytes,
    pairs: Sequence[tuple[bytes, bytes | None]],
) -> bool:
    _, found = await _ask(connection, timeout_s, (b"WATCH", guard), (b"GET", guard))
    if found != expected:
        await _ask(connection, timeout_s, (b"UNWATCH",))
        return False
    await _ask(connection, timeout_s, (b"MULTI",), (b"SET", guard, new))
    chunks = 0
    for chunk in _chunks(pairs):
        await _ask(connection, timeout_s, chunk)
        chunks += 1
    # All the work is done at EXEC, whose answer takes that much longer.
    (done,) = await _ask(connection, timeout_s + chunks * _EXEC_S_PER_CHUNK, (b"EXEC",))
    for answer in done or ():
        if isinstance(answer, Exception):
            raise answer
    return done is not None


def _chunks(pairs: Sequence[tuple[bytes, bytes | None]]) -> Iterator[tuple[bytes, ...]]:
    """Commands that write and delete, bounded in number and bytes."""
    gone = [key for key, blob in pairs if blob is None]
    for at in range(0, len(gone), WRITE_PAIRS_MAX):
        yield (b"UNLINK", *gone[at : at + WRITE_PAIRS_MAX])
    chunk: list[bytes] = []
    size = 0
    for key, blob in pairs:
        if blob is None:
            continue
        chunk += (key, blob)
        size += len(key) + len(blob)
        if size >= CHUNK_BYTES_MAX or len(chunk) >= 2 * WRITE_PAIRS_MAX:
            yield (b"MSET", *chunk)
            chunk, size = [], 0
    if chunk:
        yield (b"MSET", *chunk)


async def _ask(
    connection: AbstractConnection, timeout_s: float, *commands: tuple[bytes, ...]
) -> list[Any]:
    if not connection.is_connected:  # it would connect again, and forget what is watched
        raise ConnectionError("closed in the middle of a transaction")
    async with asyncio.timeout(timeout_s):
        await connection.send_packed_command(connection.pack_commands(commands))
        return [await connection.read_response() for _ in commands]
