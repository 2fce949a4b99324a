"""`riskwire state status`: where each partition's state is, in Redis, in Kafka and on disk.

In: settings. Out: one `Status` a partition with what wants attention and what to do, as lines or
JSON; exit status 1 if anything does. Looks only: nothing is written. Raises StoreUnavailable and
BrokerUnavailable.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table

from app.adapters.records import oldest_append_us
from app.adapters.redis import RedisStore
from app.adapters.topics import positions
from app.backfill import with_store
from app.config import Settings
from app.meta import Meta, namespace
from app.progress import REBUILD_DAYS, REBUILD_US, never_began, reaches
from app.snapshots import Snapshot, found
from features.blob import meta_key
from features.contract import Timing, contract_id
from models import manifest

KEYS_MAX = 500_000
"""So many keys are looked at to count them; where there are more, the counts are lower bounds."""
SAMPLED = 100
"""Blobs of a partition whose bytes stand for all of them."""
ANEW = (
    "was the topic made anew? Stop the workers, set the group's offsets back, delete the snapshots,"
    " and run `riskwire state rebuild --from-log`"
)
LOGS: Final = ("transactions", "labels")


@dataclass(frozen=True, slots=True)
class LogStatus:
    """One log of a partition: offsets of the state, the commit and the log, and its watermark.

    `oldest_append_us` is None where nothing was ever deleted.
    """

    topic: str
    next_offset: int
    committed: int
    oldest: int
    end: int
    watermark_us: int | None
    oldest_append_us: int | None

    @property
    def behind_commit(self) -> int:
        """Answered records that are not in the state that lies in Redis."""
        return max(self.committed - self.next_offset, 0)

    @property
    def behind_end(self) -> int:
        """Records that are not answered."""
        return self.end - max(self.committed, self.oldest)


@dataclass(frozen=True, slots=True)
class Status:
    """One partition; `meta` is None where Redis holds nothing that counts of it."""

    partition: int
    meta: Meta | None
    logs: tuple[LogStatus, LogStatus]
    snapshot: Snapshot | None
    keys: int
    is_all: bool
    bytes: int
    attention: list[tuple[str, str]] = field(default_factory=list)


def run(settings: Settings, *, as_json: bool) -> int:
    """Print where the state is; 1 where something wants attention."""
    timing = manifest.read(settings.model).manifest.timing
    now_us = time.time_ns() // 1000
    its = gather(settings, timing, now_us)
    if as_json:
        report = [_report(each, now_us) for each in its]
        print(json.dumps({"ok": not _any(its), "partitions": report}))  # noqa: T201
    else:
        _print(its, now_us)
    return 1 if _any(its) else 0


def _any(its: Sequence[Status]) -> bool:
    return any(each.attention for each in its)


def gather(settings: Settings, timing: Timing, now_us: int) -> list[Status]:
    """Ask Redis, Kafka and the directory of snapshots, and judge each partition."""
    space = namespace(contract_id(timing), settings.state_namespace)
    metas, sizes = asyncio.run(
        with_store(settings, lambda store: _in_redis(store, space, settings.partitions))
    )
    kafka = [positions(settings, settings.topic(log)) for log in LOGS]
    its = []
    for p, meta in enumerate(metas):
        logs = [
            _log(settings, timing, meta, log, p, kafka[log].get(p, (-1, 0, 0))) for log in (0, 1)
        ]
        kept = found(settings.snapshot_dir, space, p) if settings.snapshot_dir else []
        keys, size, is_all = sizes[p]
        status = Status(p, meta, (logs[0], logs[1]), kept[0] if kept else None, keys, is_all, size)
        status.attention.extend(judge(status, kept, settings.source, now_us))
        its.append(status)
    return its


def _log(
    settings: Settings, timing: Timing, meta: Meta | None, log: int, p: int,
    at: tuple[int, int, int],
) -> LogStatus:  # fmt: skip
    committed, oldest, end = at
    topic = settings.topic("labels" if log else "transactions")
    return LogStatus(
        topic,
        meta.next_offset[log] if meta else 0,
        max(committed, -1),
        oldest,
        end,
        meta.watermarks(timing.lateness_us)[log] if meta else None,
        oldest_append_us(settings, topic, p) if oldest else None,
    )


async def _in_redis(
    store: RedisStore, space: str, partitions: int
) -> tuple[list[Meta | None], list[tuple[int, int, bool]]]:
    """What is said of each partition; how many keys and bytes it has, and whether that is all."""
    guards = [meta_key(space, p) for p in range(partitions)]
    metas = [Meta.parse(value) for value in await store.fetch(guards)]
    prefixes = {guard.removesuffix(b"meta"): p for p, guard in enumerate(guards)}
    keys: Counter[int] = Counter()
    samples: dict[int, list[bytes]] = {p: [] for p in range(partitions)}
    looked = 0
    async for key in store.scan(b"rw:{p"):
        looked += 1
        p = prefixes.get(b":".join(key.split(b":", 3)[:3]) + b":", -1)
        if p >= 0 and key != guards[p]:
            keys[p] += 1
            if len(samples[p]) < SAMPLED:
                samples[p].append(key)
        if looked >= KEYS_MAX:
            break
    sizes = []
    for p, some in samples.items():
        blobs = [blob for blob in await store.fetch(some) if blob is not None]
        mean = sum(map(len, blobs)) / max(len(blobs), 1)
        sizes.append((keys[p], round(mean * keys[p]), looked < KEYS_MAX))
    return metas, sizes


def judge(
    its: Status, kept: Sequence[Snapshot], source: str, now_us: int
) -> Iterator[tuple[str, str]]:
    """What wants attention in a partition, and what to do."""
    meta, topics = its.meta, " and ".join(log.topic for log in its.logs)
    if meta is None:
        if any(log.committed > 0 for log in its.logs):
            yield (
                "Redis holds no state though records were answered",
                "start the workers: it is restored from a snapshot, or built anew from the log",
            )
        return
    if meta.source not in ("", source):
        yield (
            f"the state is that of {meta.source}, not of {source}",
            "give this deployment another RISKWIRE_STATE_NAMESPACE",
        )
    for log in its.logs:
        if log.committed > log.end:
            yield (
                f"the group has committed beyond the end of {log.topic}",
                ANEW,
            )
    if any(0 <= log.committed < log.next_offset for log in its.logs):
        yield (
            "the state is ahead of what the group has committed",
            "were offsets set back? Start the workers: they build it anew",
        )
    begins = never_began(meta, (its.logs[0].committed, its.logs[1].committed))
    if any(log.next_offset < log.oldest for log in its.logs) and not begins:
        yield (
            f"records that are not in the state are gone from {topics}",
            f"raise retention.ms; no window reaches there any more in {REBUILD_DAYS} days",
        )
    if reaches(meta.whole_since_us, now_us):
        yield (
            f"the state lacks what was appended before {_iso(meta.whole_since_us)}",
            f"no window reaches there any more after {_iso(meta.whole_since_us + REBUILD_US)}",
        )
    yield from _without_redis(its, meta, kept, now_us)


def _without_redis(
    its: Status, meta: Meta, kept: Sequence[Snapshot], now_us: int
) -> Iterator[tuple[str, str]]:
    """Whether the state could be built anew if Redis lost it."""
    good = [
        each
        for each in kept
        if each.meta.base == meta.base
        and all(n >= log.oldest for n, log in zip(each.meta.next_offset, its.logs, strict=True))
    ]
    if good or (kept and never_began(meta, (its.logs[0].committed, its.logs[1].committed))):
        return
    advice = "set RISKWIRE_SNAPSHOT_DIR and run `riskwire state snapshot`"
    if meta.base:
        yield "if Redis loses the state, the backfilled past is lost with it", advice
    for log in its.logs:
        if log.oldest_append_us is not None and reaches(log.oldest_append_us, now_us):
            since = _iso(log.oldest_append_us)
            what = f"{log.topic} begins at {since}, the windows reach back {REBUILD_DAYS} days"
            yield f"if Redis loses the state, it is lost: {what}", advice


def _report(its: Status, now_us: int) -> Mapping[str, object]:
    meta, kept = its.meta, its.snapshot
    return {
        "partition": its.partition,
        "meta": None if meta is None else asdict(meta),
        "logs": [
            {**asdict(log), "behind_commit": log.behind_commit, "behind_end": log.behind_end}
            for log in its.logs
        ],
        "snapshot": kept
        and {
            "path": str(kept.path),
            "age_s": (now_us - kept.created_us) / 1e6,
            "next_offset": kept.meta.next_offset,
        },
        "keys": its.keys,
        "keys_are_all": its.is_all,
        "bytes_estimated": its.bytes,
        "attention": [{"what": what, "advice": advice} for what, advice in its.attention],
    }


def _print(its: Sequence[Status], now_us: int) -> None:
    console = Console(highlight=False)
    table = Table(
        "partition", "owner", "epoch", "log", "in state", "committed", "log's", "watermark", "keys",
        "snapshot", title="the state, by partition and log",
    )  # fmt: skip
    for each in its:
        for place, log in enumerate(each.logs):
            whose = _whose(each, now_us) if not place else ("", "", "", "", "")
            table.add_row(
                *whose[:3], LOGS[place],
                f"{log.next_offset:,}" + (f" (-{log.behind_commit:,})" * (log.behind_commit > 0)),
                f"{max(log.committed, 0):,}" + (f" (-{log.behind_end:,})" * (log.behind_end > 0)),
                f"{log.oldest:,}-{log.end:,}", _iso(log.watermark_us or 0), *whose[3:],
            )  # fmt: skip
    console.print(table)
    for each in its:
        for what, advice in each.attention:
            console.print(f"partition {each.partition}: {what}", markup=False, soft_wrap=True)
            console.print(f"      -> {advice}", markup=False, soft_wrap=True)


def _whose(its: Status, now_us: int) -> tuple[str, str, str, str, str]:
    meta, kept = its.meta, its.snapshot
    owner = "no state" if meta is None else f"nobody, last {meta.owner}"
    if meta is not None and not meta.released:
        owner = meta.owner + (f" ({meta.transactional_id})" if meta.transactional_id else "")
    size = f"{'' if its.is_all else 'at least '}{its.keys:,} ({its.bytes / 1e6:,.1f} MB)"
    age = "none"
    if kept is not None:
        at = "/".join(map(str, kept.meta.next_offset))
        age = f"at {at}, {(now_us - kept.created_us) / 3.6e9:,.1f} h old"
    return str(its.partition), owner, str(meta.epoch) if meta else "", size, age


def _iso(time_us: int) -> str:
    at = time.gmtime(time_us // 1_000_000) if time_us > 0 else None
    return time.strftime("%Y-%m-%d %H:%M:%SZ", at) if at else "none"
