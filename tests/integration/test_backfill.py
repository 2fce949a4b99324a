"""Backfill into a real Redis and into its twin: the stream's state, the same every time."""

import asyncio
import json
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from app import backfill, features_cli
from app.adapters.facts import redis_facts
from app.adapters.memory import MemoryStore
from app.adapters.redis import RedisStore
from app.config import Settings, load_settings
from app.demo.redis_local import RedisServer
from app.demo.traffic import divided, past_log
from app.errors import ConfigError
from app.history import PastLog
from app.live import Live
from app.meta import Meta
from app.partitioner import partition_of
from app.ports import StateStore
from app.snapshots import found, take
from features import blob
from features.contract import DAY_US, FEATURES, REPLAY, Timing, contract_id
from features.offline import Log, replay
from features.state import State
from models import manifest
from models.handbook import World

PARTITIONS = 3
DAYS = 40


@pytest.fixture
def settings(own_redis: RedisServer) -> Settings:
    """Point at a real Redis of this test's own: its keys are those of the shipped model."""
    return load_settings(redis_url=SecretStr(own_redis.url), partitions=PARTITIONS)


@pytest.fixture
def timing() -> Timing:
    """A timing of one test's own, so that its keys are nobody else's."""
    return Timing(REPLAY.lateness_us, REPLAY.skew_us - uuid.uuid4().int % 2**32)


def history(timing: Timing) -> tuple[PastLog, int]:
    """Forty days of a small world."""
    until_us = 19_723 * DAY_US + DAY_US // 2
    small = World(3, customers=60, terminals=40, radius=30.0)
    past, _ = divided(small, 0, until_us, DAYS)
    return past_log(past, timing), until_us


async def stored(store: StateStore, contract: str) -> dict[bytes, bytes]:
    """All of a namespace."""
    found: dict[bytes, bytes] = {}
    for partition in range(PARTITIONS):
        prefix = blob.meta_key(contract, partition).removesuffix(b"meta")
        keys = sorted({key async for key in store.scan(prefix)})
        blobs = await store.fetch(keys)
        found |= {key: b for key, b in zip(keys, blobs, strict=True) if b is not None}
    return found


def expected(past: PastLog, until_us: int, timing: Timing) -> State:
    """The state of all partitions together after what was known by then."""
    tokens = [partition_of(token, PARTITIONS) for token in past.customer_tokens]
    log = past.log
    fraud = np.where(log.known_at_us <= until_us, log.fraud, -1).astype(np.int8)
    partition = np.array(tokens, np.int32)[log.customer]
    return replay(replace(log, partition=partition, fraud=fraud), timing)[1]


async def test_writes_what_the_stream_would_have_left(either: StateStore, timing: Timing) -> None:
    """Each entity's blob is that of the whole log's state; each partition says how far it is."""
    past, until_us = history(timing)
    seen: list[tuple[int, int]] = []
    written = await backfill.backfill(
        either, past, until_us, timing, PARTITIONS, lambda *at: seen.append(at)
    )
    contract = contract_id(timing)
    found, whole = await stored(either, contract), expected(past, until_us, timing)
    whole.f_tag[:] = past.tags[whole.f_tag]  # `replay` counts rows instead
    customers = {
        blob.customer_key(contract, partition_of(token, PARTITIONS), token): row
        for row, token in enumerate(past.customer_tokens)
    }
    shares = {
        blob.share_key(contract, p, token): row * PARTITIONS + p
        for row, token in enumerate(past.terminal_tokens)
        for p in range(PARTITIONS)
    }
    for rows, pack in ((customers, blob.pack_customers), (shares, blob.pack_shares)):
        blobs = dict(zip(rows, pack(whole, np.array(list(rows.values()), np.int32)), strict=True))
        known = [key for key in rows if key in found]
        assert len(known) > 20
        assert {key: blobs[key] for key in known} == {key: found[key] for key in known}
    empty = set(shares.values()) - {shares[key] for key in shares if key in found}
    assert not whole.s_count[sorted(empty)].any()
    for p in range(PARTITIONS):
        meta = Meta.parse(found.pop(blob.meta_key(contract, p)))
        assert meta is not None
        assert (meta.owner, meta.released, meta.epoch) == ("backfill", True, 1)
        assert (meta.partitions, meta.next_offset) == (PARTITIONS, (0, 0))
        assert meta.newest_us == tuple(whole.newest_us[:, p].tolist())
        assert max(meta.newest_us) <= until_us
        assert meta.watermarks(timing.lateness_us) >= (until_us - timing.lateness_us,) * 2
    assert written.transactions == len(past) > 1000
    assert written.blobs == len(found) == seen[-1][0] == seen[-1][1]
    assert written.customers == len(set(past.log.customer.tolist()))
    assert written.terminals == len(set(past.log.terminal.tolist()))


async def test_again_gives_the_same_blobs_and_nothing_else(
    either: StateStore, timing: Timing
) -> None:
    """What a former one or a former stream left is gone; only the epoch rises."""
    past, until_us = history(timing)
    await backfill.backfill(either, past, until_us, timing, PARTITIONS)
    contract = contract_id(timing)
    first = await stored(either, contract)
    guard = blob.meta_key(contract, 1)
    stale = (blob.share_key(contract, 1, b"gone"), b"old")
    assert await either.flush(guard, first[guard], first[guard], [stale])
    await backfill.backfill(either, past, until_us, timing, PARTITIONS)
    second = await stored(either, contract)
    for p in range(PARTITIONS):
        before, after = (Meta.parse(f.pop(blob.meta_key(contract, p))) for f in (first, second))
        assert before is not None
        assert after == replace(before, epoch=2)
    assert second == first


async def test_a_snapshot_is_kept_in_place_of_those_of_before(
    timing: Timing, tmp_path: Path
) -> None:
    """It holds what the store holds; one of another past is not gone on from any more."""
    past, until_us = history(timing)
    store, contract = MemoryStore(), contract_id(timing)
    await backfill.backfill(store, past, until_us, timing, PARTITIONS, snapshot_dir=tmp_path)
    [first] = found(tmp_path, contract, 1)
    assert (first.check(), first.meta.next_offset) == (len(dict(*first.pairs())), (0, 0))
    blobs = {key: store.blobs[key] for key in store.blobs if b"{p1}" in key}
    assert blobs == {**dict(*first.pairs()), blob.meta_key(contract, 1): first.meta.encode()}
    later = replace(first.meta, next_offset=(9, 9), released=True)
    store.blobs[blob.meta_key(contract, 1)] = later.encode()
    await take(store, contract, 1, tmp_path)
    shorter = until_us - DAY_US
    kept = past.log.event_time_us <= shorter
    columns = {name: getattr(past.log, name)[kept] for name in past.log.__slots__}
    less = replace(past, log=Log(**columns), tags=past.tags[kept])
    await backfill.backfill(store, less, shorter, timing, PARTITIONS, snapshot_dir=tmp_path)
    [second] = found(tmp_path, contract, 1)
    assert second.meta.next_offset == (0, 0)
    assert second.meta.base not in ("", first.meta.base)


async def test_a_worker_finds_what_it_needs(timing: Timing) -> None:
    """Vectors after a claim of the backfilled partitions are those of the whole log."""
    past, until_us = history(timing)
    store = MemoryStore()
    await backfill.backfill(store, past, until_us, timing, PARTITIONS)
    contract, whole = contract_id(timing), expected(past, until_us, timing)
    live = Live(timing, PARTITIONS, 4096, 4096)
    for p in range(PARTITIONS):
        meta = Meta.parse(store.blobs[blob.meta_key(contract, p)])
        assert meta is not None
        live.adopt(p, meta.owned_by("w"), (0, 0))
    np.testing.assert_array_equal(live.state.newest_us, whole.newest_us)
    assert live.next_offset == {(log, p): 0 for log in (0, 1) for p in range(PARTITIONS)}


async def test_an_owned_partition_is_refused_untouched(either: StateStore, timing: Timing) -> None:
    """While a worker owns one of them nothing is written, not even in the others."""
    past, until_us = history(timing)
    guard = blob.meta_key(contract_id(timing), 2)
    owned = Meta(PARTITIONS, 7, "worker-1", released=False).encode()
    assert await either.flush(guard, None, owned, [])
    with pytest.raises(ConfigError, match="partition 2 is owned by the worker 'worker-1'"):
        await backfill.backfill(either, past, until_us, timing, PARTITIONS)
    assert await stored(either, contract_id(timing)) == {guard: owned}


class Claiming(MemoryStore):
    """A store in which a worker claims partition 0 once some writes were done."""

    def __init__(self, guard: bytes, after: int) -> None:
        super().__init__()
        self.guard, self.after = guard, after

    async def flush(self, *arguments: object) -> bool:
        """See `StateStore.flush`."""
        self.after -= 1
        if self.after == 0:
            assert Meta.parse(self.blobs.get(self.guard)) is None
            self.blobs[self.guard] = Meta(PARTITIONS, 1, "w", released=False).encode()
        return await super().flush(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_a_claim_in_the_middle_wins(timing: Timing, after: int) -> None:
    """Whenever it comes, the backfill gives up, and what it had written never counted."""
    past, until_us = history(timing)
    guard = blob.meta_key(contract_id(timing), 0)
    store = Claiming(guard, after)
    with pytest.raises(ConfigError, match="somebody else took partition 0"):
        await backfill.backfill(store, past, until_us, timing, PARTITIONS)
    meta = Meta.parse(store.blobs[guard])
    assert meta is not None
    assert meta.owner == "w"


async def test_a_history_beyond_its_end_is_refused(timing: Timing) -> None:
    """The state would know the future."""
    past, until_us = history(timing)
    with pytest.raises(ConfigError, match="beyond"):
        await backfill.backfill(MemoryStore(), past, until_us - DAY_US, timing, PARTITIONS)


async def test_a_prefix_is_deleted_by_the_letter(either: StateStore) -> None:
    """Many keys go, those of another prefix stay, and patterns mean nothing."""
    space = b"test:%s:" % uuid.uuid4().hex.encode()
    kept = [(space + b"a?", b"1"), (space + b"b*1", b"2"), (space, b"3")]
    gone = [(space + b"b?%d" % i, b"x") for i in range(2500)]
    assert await either.flush(space + b"guard", None, b"g", kept + gone)
    await either.delete(space + b"b?")
    names = {key async for key in either.scan(space)}
    assert names == {space + b"guard", *(key for key, _ in kept)}
    await either.delete(space)
    assert [key async for key in either.scan(space)] == []


def test_from_a_file_and_back(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CSV file becomes state that `features get` shows; an unknown entity has status 1."""
    token = f"csv-{uuid.uuid4().hex[:8]}"
    began_us = 1_700_000_000_000_000
    rows = [f"{token},t1,{began_us + i * DAY_US},{1000 + i},{i % 2}" for i in range(12)]
    rows.append(f"other,t1,{began_us},5,")
    path = tmp_path / "history.csv"
    head = "customer_id,terminal_id,event_time,amount_minor,fraud"
    path.write_text("\n".join([head, *rows]), "utf-8")
    backfill.run(settings, path, 0, 0)
    said = " ".join(capsys.readouterr().out.split())
    assert "13 transactions until 2023-11-25 22:13:20 UTC gave the state of 2 customers" in said
    assert features_cli.show(settings, "customer", token, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "found"
    [part] = shown["partitions"]
    assert part["partition"] == partition_of(token.encode(), PARTITIONS)
    assert [event["amount_minor"] for event in part["blob"]["events"]] == list(range(1000, 1012))
    [view] = shown["freshness"]
    assert view["newest"] == "2023-11-25T22:13:20.000000Z"
    assert view["age_s"] > 0
    assert features_cli.show(settings, "terminal", "t1", as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    blobs = [part["blob"] for part in shown["partitions"] if part["blob"]]
    assert sum(len(b["events"]) for b in blobs) == 13
    assert sum(len(b["frauds"]) for b in blobs) > 0
    assert {view["view"] for view in shown["freshness"]} == {"terminal events", "terminal frauds"}
    assert features_cli.show(settings, "customer", token + "x", as_json=False) == 1
    assert "missing" in capsys.readouterr().out


def test_what_is_shown_reads_well(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest events, the tables of the rest, how fresh it is; damage is named."""
    monkeypatch.setenv("COLUMNS", "120")
    timing = manifest.read(settings.model).manifest.timing
    past, until_us = history(timing)
    busiest = int(np.bincount(past.log.customer).argmax())
    token = past.customer_tokens[busiest]
    key = blob.customer_key(contract_id(timing), partition_of(token, PARTITIONS), token)

    async def fill() -> None:
        store = RedisStore(settings.redis_url, 2000)
        await backfill.backfill(store, past, until_us, timing, PARTITIONS)
        await store.close()

    async def spoil() -> None:
        store = RedisStore(settings.redis_url, 2000)
        await store.write([(key, b"broken")])
        await store.close()

    asyncio.run(fill())
    facts = redis_facts(settings, contract_id(timing))
    assert sorted(facts.metas) == list(range(PARTITIONS))
    assert features_cli.show(settings, "customer", token.decode(), as_json=False) == 0
    page = capsys.readouterr().out
    for word in ("events, the newest 10", "amount_minor", "customer events", "last written by"):
        assert word in page
    assert features_cli.show(settings, "terminal", "1", as_json=False) == 0
    page = capsys.readouterr().out
    for word in ("partition 2", "seen", "terminal frauds", "log read until"):
        assert word in page
    asyncio.run(spoil())
    assert features_cli.show(settings, "customer", token.decode(), as_json=False) == 1
    assert "damaged, no blob of this version" in capsys.readouterr().out


def test_an_unknown_entity_is_refused(settings: Settings) -> None:
    """Only customers and terminals have state."""
    with pytest.raises(ConfigError, match="there are customer, terminal"):
        features_cli.show(settings, "merchant", "m1", as_json=True)


def test_the_list_explains_every_feature(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, window and meaning, in the order of the vector."""
    monkeypatch.setenv("COLUMNS", "200")
    features_cli.show_list(as_json=True)
    listed = json.loads(capsys.readouterr().out)["features"]
    assert [each["name"] for each in listed] == [feature.name for feature in FEATURES]
    features_cli.show_list(as_json=False)
    page = capsys.readouterr().out
    for feature in FEATURES:
        assert feature.name in page
