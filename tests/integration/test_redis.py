"""The Redis adapter against a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from app.adapters.redis import PIPELINE_CHUNKS_MAX, WRITE_PAIRS_MAX, RedisStore
from app.errors import ConfigError, StoreUnavailable


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store on the server of the tests."""
    store = RedisStore(SecretStr(redis_url), timeout_ms=2000)
    yield store
    await store.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def test_what_is_written_is_fetched(store: RedisStore) -> None:
    """Blobs of any bytes come back in the order of the keys, None where there is none."""
    await store.ping()
    await store.write([(b"test:\xff\x00", b"\x00\xff\r\n"), (b"test:b", b"")])
    assert await store.fetch([b"test:b", b"test:none", b"test:\xff\x00", b"test:b"]) == [
        b"", None, b"\x00\xff\r\n", b"",
    ]  # fmt: skip


async def test_no_keys_need_no_server() -> None:
    """An empty list is answered without a connection."""
    store = RedisStore(SecretStr(f"redis://127.0.0.1:{closed_port()}/0"), timeout_ms=200)
    assert await store.fetch([]) == []
    await store.write([])
    await store.close()


async def test_large_writes_arrive_whole(store: RedisStore) -> None:
    """More pairs than a pipeline takes at once are all written."""
    count = WRITE_PAIRS_MAX * PIPELINE_CHUNKS_MAX + WRITE_PAIRS_MAX + 1
    pairs = [(b"test:many:%d" % i, b"%d" % i) for i in range(count)]
    await store.write(pairs)
    assert await store.fetch([name for name, _ in pairs]) == [blob for _, blob in pairs]


async def test_fetches_may_overlap(store: RedisStore) -> None:
    """Concurrent fetches get their own answers."""
    await store.write([(b"test:o%d" % i, b"%d" % i) for i in range(20)])
    found = await asyncio.gather(*(store.fetch([b"test:o%d" % i]) for i in range(20)))
    assert found == [[b"%d" % i] for i in range(20)]


async def test_a_closed_port_is_unavailable_without_the_password() -> None:
    """A server that is away is StoreUnavailable; the message has its address and no secret."""
    port = closed_port()
    store = RedisStore(SecretStr(f"redis://user:hunter2@127.0.0.1:{port}/0"), timeout_ms=500)
    for call in (store.ping(), store.fetch([b"a"]), store.write([(b"a", b"b")])):
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as raised:
            await call
        assert "hunter2" not in str(raised.value)
    await store.close()


async def test_a_silent_server_is_unavailable_in_time(silent_port: int) -> None:
    """A server that does not answer is given up after the time-out."""
    store = RedisStore(SecretStr(f"redis://127.0.0.1:{silent_port}/0"), timeout_ms=150)
    async with asyncio.timeout(2):
        with pytest.raises(StoreUnavailable):
            await store.fetch([b"a"])
    await store.close()


async def test_a_wrong_type_is_none_and_no_failure(store: RedisStore) -> None:
    """A key that holds no string reads as missing: MGET says so, and the batch goes on."""
    client = store._client
    await client.delete(b"test:list")
    await client.rpush(b"test:list", b"x")
    assert await store.fetch([b"test:list"]) == [None]


async def test_a_broken_connection_is_opened_again(store: RedisStore, redis_url: str) -> None:
    """A connection that the server closed while idle costs no failure."""
    await store.write([(b"test:again", b"1")])
    other = RedisStore(SecretStr(redis_url), timeout_ms=2000)
    await other._client.client_kill_filter(_id=str(await store._client.client_id()))
    await other.close()
    assert await store.fetch([b"test:again"]) == [b"1"]


def test_a_malformed_address_is_the_operators() -> None:
    """What is no Redis URL is refused at once, and its secret is not shown."""
    with pytest.raises(ConfigError, match="RISKWIRE_REDIS_URL") as raised:
        RedisStore(SecretStr("http://:hunter2@somewhere"), timeout_ms=100)
    assert "hunter2" not in str(raised.value)
