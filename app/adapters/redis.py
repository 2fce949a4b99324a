"""Redis behind `ports.ProfileStore`: packed profiles by key; the only module that imports redis-py.

`fetch` is one MGET, whatever the number of keys; `write` sends chunks of MSET down one pipeline and
is for backfill. A connection that broke while idle is opened again; every other failure of
redis-py, the socket or the time-out is StoreUnavailable, whose message names the server and never
the password. A URL that is none is a ConfigError. One RedisStore belongs to one event loop.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.errors import ConfigError, StoreUnavailable

WRITE_PAIRS_MAX = 1000
PIPELINE_CHUNKS_MAX = 16


class RedisStore:
    """Profiles in one Redis server."""

    def __init__(self, url: SecretStr, timeout_ms: int) -> None:
        """Prepare a client; connects at first use. Raises ConfigError on a malformed URL."""
        seconds = timeout_ms / 1000
        try:
            self._client: Redis = Redis.from_url(
                url.get_secret_value(),
                decode_responses=False,
                protocol=2,
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
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
        """One blob for each key in one MGET, None where there is none; raises StoreUnavailable."""
        if not keys:
            return []
        with self._translated():
            blobs = await self._client.mget(keys)
        # Without decode_responses, values are bytes; redis-py's types cannot say so.
        return cast("list[bytes | None]", blobs)

    async def write(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store blobs by key, WRITE_PAIRS_MAX an MSET; raises StoreUnavailable.

        Chunks written before a failure stay written: the same call again completes them.
        """
        size = WRITE_PAIRS_MAX * PIPELINE_CHUNKS_MAX
        for start in range(0, len(pairs), size):
            end = min(start + size, len(pairs))
            with self._translated():
                async with self._client.pipeline(transaction=False) as pipe:
                    for at in range(start, end, WRITE_PAIRS_MAX):
                        pipe.mset(dict(pairs[at : min(at + WRITE_PAIRS_MAX, end)]))
                    await pipe.execute()

    async def ping(self) -> None:
        """Return if the server answers; raises StoreUnavailable."""
        with self._translated():
            await self._client.ping()

    async def close(self) -> None:
        """Close all connections; safe to call again."""
        await self._client.aclose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            msg = f"Redis at {self.address} does not answer: {str(error) or type(error).__name__}"
            raise StoreUnavailable(msg) from error
