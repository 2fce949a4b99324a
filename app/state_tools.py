"""`riskwire state snapshot`, `rebuild` and `verify`: the work behind the commands.

In: settings, partitions. Out: lines or JSON on standard output and an exit status. Raises
ConfigError for what an operator must mend, StoreUnavailable and BrokerUnavailable.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from app.adapters.memory import MemoryRegistry
from app.adapters.records import read
from app.adapters.redis import RedisStore
from app.adapters.registry import SchemaRegistry
from app.adapters.topics import watermarks
from app.adapters.watermarks import KafkaWatermarks
from app.backfill import with_store
from app.config import Settings
from app.errors import ConfigError
from app.meta import Meta, Pair, namespace
from app.recompute import Recomputed
from app.rewrite import Rewrite, refuse_owned
from app.snapshots import KEPT, Snapshot, Snapshots, Taken, forget, found, released, take
from app.wiring import limits_of
from features.blob import meta_key
from features.contract import Timing, contract_id
from models import manifest

EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Deployment:
    """Whose state it is: the settings, the model's time rules, the keys' namespace."""

    settings: Settings
    timing: Timing
    namespace: str

    @classmethod
    def of(cls, settings: Settings) -> "Deployment":
        """The one of the settings."""
        timing = manifest.read(settings.model).manifest.timing
        return cls(settings, timing, namespace(contract_id(timing), settings.state_namespace))

    def chosen(self, partitions: Sequence[int]) -> list[int]:
        """These partitions, or all; raises ConfigError for one that there is not."""
        count = self.settings.partitions
        if wrong := [p for p in partitions if not 0 <= p < count]:
            raise ConfigError(f"there is no partition {wrong[0]}: RISKWIRE_PARTITIONS is {count}")
        return sorted(set(partitions)) or list(range(count))

    def directory(self, given: Path | None) -> Path:
        """Where snapshots lie; raises ConfigError where nobody says so."""
        directory = given or self.settings.snapshot_dir
        if directory is None:
            raise ConfigError("say where snapshots lie: a directory, or RISKWIRE_SNAPSHOT_DIR")
        return directory

    def snapshots(self, directory: Path | None) -> Snapshots:
        """Those in a directory that may be of this deployment."""
        its = self.settings
        return Snapshots(directory, self.namespace, its.partitions, its.source)


def say(line: str) -> None:
    """Print a line as it is."""
    Console(highlight=False).print(line, markup=False, soft_wrap=True)


def snapshot(settings: Settings, to: Path | None, partitions: Sequence[int]) -> None:
    """Take a snapshot of each partition, and delete old ones."""
    its = Deployment.of(settings)
    directory, chosen = its.directory(to), its.chosen(partitions)

    async def work(store: RedisStore) -> list[Taken]:
        done = []
        for partition in chosen:
            done.append(await take(store, its.namespace, partition, directory))
            forget(directory, its.namespace, partition, KEPT)
        return done

    for each in asyncio.run(with_store(settings, work)):
        say(f"{each.path}: {each.blobs:,} blobs, {each.bytes:,} bytes")


def rebuild(
    settings: Settings, partitions: Sequence[int], directory: Path | None, *, from_log: bool
) -> None:
    """Let the next owner of partitions begin with a snapshot, or with the oldest records."""
    its = Deployment.of(settings)
    directory = None if from_log else directory or settings.snapshot_dir
    chosen = its.chosen(partitions)
    if directory is not None and directory != settings.snapshot_dir and not directory.is_dir():
        raise ConfigError(f"{directory} is no directory")
    metas = asyncio.run(with_store(settings, lambda store: _rebuild(store, its, chosen, directory)))
    for partition, (path, meta) in metas.items():
        start = f"transactions {meta.next_offset[0]:,}, labels {meta.next_offset[1]:,}"
        what = f"restored from {path}" if path else "cleared"
        say(f"partition {partition}: {what}; the next owner reads on from {start}")


async def _rebuild(
    store: RedisStore, its: Deployment, chosen: Sequence[int], directory: Path | None
) -> dict[int, tuple[Path | None, Meta]]:
    guards = [meta_key(its.namespace, partition) for partition in chosen]
    values = await store.fetch(guards)
    for partition, value in zip(chosen, values, strict=True):
        refuse_owned(partition, value)
    snapshots = its.snapshots(directory)
    fitting = {p: next(snapshots.fitting(p), None) for p in chosen}
    done: dict[int, tuple[Path | None, Meta]] = {}
    for partition, value in zip(chosen, values, strict=True):
        at, before = fitting[partition], Meta.parse(value)
        if directory is not None and at is None:
            raise ConfigError(
                f"no snapshot in {directory / its.namespace} fits partition {partition}; the log"
                " says why. Give another directory, or --from-log"
            )
        if at is None and before is not None and before.base:
            say(
                f"partition {partition}: the backfilled past goes with it, since no log has that:"
                " run `riskwire features backfill` again instead"
            )
        rewrite = Rewrite(store, its.namespace, partition)
        await rewrite.begin(value)
        meta = await snapshots.refill(rewrite, partition) if at else None
        meta = meta or released(Meta(its.settings.partitions), rewrite.epoch)
        await rewrite.end(meta)
        done[partition] = at.path if at else None, meta
    return done


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a partition's state is what its logs say; `reason` where that cannot be told."""

    partition: int
    next_offset: Pair
    began_with: str
    blobs: int
    differences: dict[str, int]
    examples: list[str]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether every blob is the same."""
        return not self.differences and not self.reason


def verify(settings: Settings, partitions: Sequence[int], *, as_json: bool) -> int:
    """Compare what Redis holds with what the logs say; 1 where it is not the same, bit for bit."""
    its = Deployment.of(settings)
    verdicts = []
    for partition in its.chosen(partitions):
        began = time.monotonic()
        verdicts.append(_verdict(its, partition))
        if not as_json:
            say(_line(verdicts[-1], time.monotonic() - began))
    ok = all(each.ok for each in verdicts)
    if as_json:
        rows = [
            {name: getattr(each, name) for name in (*each.__slots__, "ok")} for each in verdicts
        ]
        print(json.dumps({"ok": ok, "partitions": rows}))  # noqa: T201
    return 0 if ok else 1


def _line(its: Verdict, spent_s: float) -> str:
    head = f"partition {its.partition} at {its.next_offset[0]:,}/{its.next_offset[1]:,}"
    if its.reason:
        return f"{head}: cannot be told: {its.reason}"
    found_ = ", ".join(f"{count:,} {what}" for what, count in its.differences.items())
    tail = f" (from {its.began_with}, {spent_s:.1f} s)"
    if not found_:
        return f"{head}: {its.blobs:,} blobs as the logs say{tail}"
    return f"{head}: of {its.blobs:,} blobs {found_}{tail}\n      " + "\n      ".join(its.examples)


def _verdict(its: Deployment, partition: int) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="riskwire-") as directory:
        taken = asyncio.run(
            with_store(
                its.settings,
                lambda store: take(store, its.namespace, partition, Path(directory)),
            )
        )
        image = Snapshot.read(taken.path)
        at = taken.meta.next_offset
        try:
            start = _start(its, partition, taken.meta)
        except ConfigError as error:
            return Verdict(partition, at, "", taken.blobs, {}, [], str(error))
        return asyncio.run(_compared(its, partition, image, start, taken.blobs))


def _start(its: Deployment, partition: int, meta: Meta) -> Snapshot | None:
    """What the recomputation begins with: a snapshot, or None for the log's beginning."""
    settings = its.settings
    oldest = tuple(
        watermarks(settings, settings.topic(log)).get(partition, (0, 0))[0]
        for log in ("transactions", "labels")
    )
    if meta.whole_since_us:
        raise ConfigError("records were gone from the log when it was built (see `state status`)")
    if not meta.base and max(oldest) == 0:
        return None
    directory = settings.snapshot_dir
    for each in reversed(found(directory, its.namespace, partition) if directory else []):
        n = each.meta.next_offset
        if (
            each.meta.base == meta.base
            and all(low <= k for low, k in zip(oldest, n, strict=True))
            and all(k <= w for k, w in zip(n, meta.next_offset, strict=True))
        ):
            its.snapshots(directory).judge(each, partition)
            each.check()
            return each
    what = "it goes on from a backfilled past" if meta.base else "the log's beginning is gone"
    raise ConfigError(f"{what}, and no snapshot in RISKWIRE_SNAPSHOT_DIR is of before")


async def _compared(
    its: Deployment, partition: int, image: Snapshot, start: Snapshot | None, blobs: int
) -> Verdict:
    settings = its.settings
    registry = SchemaRegistry(settings) if settings.schema_registry_url else MemoryRegistry()
    anew = Recomputed(
        its.timing, settings.partitions, partition, settings.state_namespace,
        (settings.state_customers_max, settings.state_shares_max), limits_of(settings), registry,
    )  # fmt: skip
    first: Pair = (0, 0)
    marks = KafkaWatermarks(settings)
    try:
        if start is not None:
            anew.begin_with(start)
            first = start.meta.next_offset
        next_mark = start.meta.next_mark if start else 0
        anew.declare((await marks.read({partition: next_mark}))[partition][0])
    finally:
        marks.close()
    until = image.meta.next_offset
    for batch in read(settings, settings.topic("transactions"), partition, first[0], until[0]):
        await anew.transactions(batch)
    for batch in read(settings, settings.topic("labels"), partition, first[1], until[1]):
        await anew.labels(batch)
    differences: Counter[str] = Counter()
    examples: list[str] = []
    for key, what in await anew.compare(image):
        differences[what] += 1
        if len(examples) < EXAMPLES:
            examples.append(f"{what}: {key.decode(errors='replace')}")
    began = str(start.path) if start else "the log's beginning"
    return Verdict(partition, until, began, blobs, dict(differences), examples)
