"""The Redis adapter against a real server, and its twin in memory by the same tests."""

import asyncio
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from app.adapters.redis import (
    CHUNK_BYTES_MAX,
    PIPELINE_CHUNKS_MAX,
    WRITE_PAIRS_MAX,
    RedisStore,
    _chunks,
)
from app.errors import ConfigError, StoreUnavailable
from app.ports import StateStore


@pytest.fixture
def space() -> bytes:
    """A namespace that nobody else uses."""
    return b"test:%s:" % uuid.uuid4().hex[:12].encode()


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
    flush = store.flush(b"g", None, b"1", [(b"a", b"b")])
    calls = (store.ping(), store.fetch([b"a"]), store.write([(b"a", b"b")]), flush, _keys(store))
    for call in calls:
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
        with pytest.raises(StoreUnavailable):
            await store.flush(b"g", None, b"1", [])
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


async def _keys(store: StateStore, prefix: bytes = b"") -> list[bytes]:
    return sorted({key async for key in store.scan(prefix)})


async def test_keys_of_many_tags_come_back_in_their_order(either: StateStore, space: bytes) -> None:
    """Blobs of several partitions, and keys without a tag, are found in one fetch."""
    names = [space + b"{p%d}:%d" % (i % 5, i) for i in range(40)] + [space + b"none", b"}{", b"{}"]
    pairs = [(name, b"v" + name) for name in names if not name.endswith(b"7")]
    assert await either.flush(space + b"{p0}:w", None, b"1", pairs)
    wanted = [*reversed(names), names[0]]
    assert await either.fetch(wanted) == [dict(pairs).get(name) for name in wanted]


async def test_a_fetch_is_one_mget_for_each_tag(store: RedisStore, space: bytes) -> None:
    """Every command has keys of one hash tag: what a cluster asks for."""
    before = (await store._client.info("commandstats")).get("cmdstat_mget", {"calls": 0})
    await store.fetch([space + b"{p%d}:%d" % (i % 3, i) for i in range(99)])
    after = (await store._client.info("commandstats"))["cmdstat_mget"]
    assert after["calls"] - before["calls"] == 3


async def test_a_flush_is_written_under_its_guard(either: StateStore, space: bytes) -> None:
    """The first wants no guard; each next one wants what the one before wrote."""
    guard, name = space + b"{p1}:w", space + b"{p1}:c:1"
    assert not await either.flush(guard, b"0", b"1", [(name, b"no")])
    assert await either.fetch([guard, name]) == [None, None]
    assert await either.flush(guard, None, b"1", [(name, b"a")])
    assert not await either.flush(guard, None, b"2", [(name, b"no")])
    assert await either.fetch([guard, name]) == [b"1", b"a"]
    assert await either.flush(guard, b"1", b"2\x00\xff", [(name, b"b"), (name, b"last")])
    assert await either.flush(guard, b"2\x00\xff", b"3", [])
    assert await either.fetch([guard, name]) == [b"3", b"last"]


async def test_a_flush_onto_a_guard_rolled_back_is_refused(
    either: StateStore, space: bytes
) -> None:
    """A server that went back to an older snapshot keeps what it has."""
    guard, name = space + b"{p1}:w", space + b"{p1}:c:1"
    assert await either.flush(guard, None, b"1", [(name, b"old")])
    assert await either.flush(guard, b"1", b"2", [(name, b"new")])
    assert await either.flush(guard, b"2", b"1", [(name, b"old")])  # the snapshot is put back
    assert not await either.flush(guard, b"2", b"3", [(name, b"newer")])
    assert await either.fetch([guard, name]) == [b"1", b"old"]


class Meanwhile(Sequence[tuple[bytes, bytes]]):
    """Pairs during whose reading something happens."""

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]], happens: Callable[[], object]) -> None:
        self._pairs, self._happens = pairs, happens

    def __getitem__(self, at: Any) -> Any:
        return self._pairs[at]

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._pairs[:2000]
        self._happens()
        yield from self._pairs[2000:]


@pytest.mark.parametrize("count", [1, 5000])
async def test_another_writer_in_the_middle_is_noticed(
    store: RedisStore, redis_url: str, space: bytes, count: int
) -> None:
    """The guard was right when read and is another's at the end: nothing is written."""
    guard = space + b"{p1}:w"
    assert await store.flush(guard, None, b"1", [])
    pairs = [(space + b"{p1}:%d" % i, b"x") for i in range(count)]
    with Redis.from_url(redis_url) as other:
        meanwhile = Meanwhile(pairs, lambda: other.set(guard, b"theirs"))
        assert not await store.flush(guard, b"1", b"2", meanwhile)
        same = Meanwhile(pairs, lambda: other.set(guard, b"theirs"))  # written, if to the same
        assert not await store.flush(guard, b"theirs", b"2", same)
    assert await _keys(store, space) == [guard]
    assert await store.fetch([guard]) == [b"theirs"]
    assert await store.flush(guard, b"theirs", b"2", pairs)
    assert len(await _keys(store, space)) == 1 + count


async def test_what_breaks_a_flush_leaves_nothing_behind(store: RedisStore, space: bytes) -> None:
    """An error or a cancel between MULTI and EXEC: nothing written, the connection is clean."""
    guard, pairs = space + b"{p1}:w", [(space + b"{p1}:%d" % i, b"x") for i in range(5000)]
    with pytest.raises(ZeroDivisionError):
        await store.flush(guard, None, b"1", Meanwhile(pairs, lambda: 1 // 0))
    assert await _keys(store, space) == []
    this = asyncio.current_task()
    assert this is not None
    with pytest.raises(asyncio.CancelledError):
        await store.flush(guard, None, b"1", Meanwhile(pairs, this.cancel))
    this.uncancel()
    assert await store.fetch([guard]) == [None]
    assert await store.flush(guard, None, b"1", pairs)


async def test_a_connection_lost_in_a_flush_is_no_half_flush(
    store: RedisStore, redis_url: str, space: bytes
) -> None:
    """Killed by the server, or closed here: StoreUnavailable, and no pair is written by itself."""
    guard, pairs = space + b"{p1}:w", [(space + b"{p1}:%d" % i, b"x") for i in range(5000)]
    tasks: list[asyncio.Task[None]] = []
    with Redis.from_url(redis_url) as other:
        number = await store._client.client_id()
        killed = Meanwhile(pairs, lambda: other.client_kill_filter(_id=str(number)))
        with pytest.raises(StoreUnavailable):
            await store.flush(guard, None, b"1", killed)
        closed = Meanwhile(pairs, lambda: tasks.append(asyncio.ensure_future(store.close())))
        with pytest.raises(StoreUnavailable):
            await store.flush(guard, None, b"1", closed)
        await asyncio.gather(*tasks)
        assert await _keys(store, space) == []


async def test_a_refused_write_is_unavailable_and_nothing_is_written(
    store: RedisStore, redis_url: str, space: bytes
) -> None:
    """A server that takes no writes (here: by its ACL) says so, and all is left out."""
    user, guard = "reader-" + uuid.uuid4().hex, space + b"{p1}:w"
    with Redis.from_url(redis_url) as admin:
        admin.acl_setuser(
            user, enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-mset"]
        )
        address = redis_url.split("//")[1].rsplit("@", maxsplit=1)[-1]
        limited = RedisStore(SecretStr(f"redis://{user}:x@{address}"), timeout_ms=2000)
        with pytest.raises(StoreUnavailable, match="permission"):
            await limited.flush(guard, None, b"1", [(space + b"{p1}:a", b"1")])
        await limited.close()
        admin.acl_deluser(user)
    assert await _keys(store, space) == []


async def test_a_big_flush_arrives_whole(redis_url: str, space: bytes) -> None:
    """A hundred thousand blobs of 1 KiB in one transaction, with a short time-out for an answer."""
    store = RedisStore(SecretStr(redis_url), timeout_ms=500)
    pairs = [(space + b"{p1}:%d" % i, b"%1024d" % i) for i in range(100_000)]
    assert await store.flush(space + b"{p1}:w", None, b"1", pairs)
    assert await store.fetch([name for name, _ in pairs[::1000]]) == [v for _, v in pairs[::1000]]
    assert len(await _keys(store, space)) == 1 + len(pairs)
    with Redis.from_url(redis_url) as client:
        client.unlink(*(name for name, _ in pairs))
    await store.close()


def test_chunks_are_bounded_and_lose_nothing() -> None:
    """By number and by bytes; a blob over the bound goes alone with what came before it."""
    sizes = [10] * 2500 + [CHUNK_BYTES_MAX * 2] + [CHUNK_BYTES_MAX // 2] * 3 + [0]
    pairs = [(b"k%d" % i, b"v" * size) for i, size in enumerate(sizes)]
    chunks = list(_chunks(pairs))
    assert [len(chunk) // 2 for chunk in chunks] == [1000, 1000, 501, 2, 2]
    assert {chunk[0] for chunk in chunks} == {b"MSET"}
    written = [item for chunk in chunks for item in chunk[1:]]
    assert written == [item for pair in pairs for item in pair]
    gone = list(_chunks([(b"k%d" % i, None) for i in range(1500)]))
    assert [(chunk[0], len(chunk)) for chunk in gone] == [(b"UNLINK", 1001), (b"UNLINK", 501)]


async def test_a_scan_takes_its_prefix_by_the_letter(either: StateStore, space: bytes) -> None:
    """Signs that mean something in a pattern mean themselves; other namespaces stay out."""
    names = [space + b"*[a]?\\{p1}:%d" % i for i in range(2500)]
    others = [space + b"x[a]?\\{p1}:1", space + b"*aa\\{p1}:1", space]
    assert await either.flush(space + b"g", None, b"1", [(name, b"") for name in names + others])
    assert await _keys(either, space + b"*[a]?\\") == sorted(names)
    assert len(await _keys(either, space)) == len(names) + len(others) + 1
