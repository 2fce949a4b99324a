"""Owning the state of partitions: claim, flush after the commit, release.

Kafka's committed offsets decide; Redis may lag behind them, never run ahead. A claim raises the
partition's epoch in Redis and says where each log is to be read from: where the state there ends,
so that records that were answered but not flushed make state again, silently. A flush writes what
changed together with the offsets that it stands for, once these are committed, and only if Redis
still holds what this owner wrote last. A release flushes and says that nobody owns the partition.
Where Redis has lost a partition's state, or is ahead of Kafka, it is built anew: from the newest
snapshot, else from the oldest records; older state than was written last is gone on from. A
partition whose state another has claimed is a StateError: the worker stops.

Why from the oldest records, and not from those of the longest window: the state is a function of
the log, bit for bit. An entity that nobody has seen for long keeps its old row in Redis, since rows
are pruned by the entity's own next record; a replay that began later would give the same vectors to
records in time, but other state, and other vectors to records that are very late. What shortens a
rebuild is a snapshot.
`lock` is held by whoever works on the live state.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from app.backoff import Backoff
from app.errors import ConfigError, StoreUnavailable, Unavailable
from app.ledger import Position
from app.live import Frozen, Live, taken_over
from app.marks import Marks, Read
from app.meta import Meta, Pair
from app.metrics import Metrics
from app.ports import Clock, Commits, StateStore
from app.progress import Progress, never_began, reaches
from app.rewrite import OvertakenError, Rewrite
from app.snapshots import Snapshots
from app.watermarks import Announcer, WatermarkLog
from features.blob import meta_key

log = structlog.get_logger("riskwire.state")
CLAIM_S, FENCE_S, FENCE_LONG_S = 5.0, 0.25, 2.0
SAY_AGAIN_S = 5.0
RELEASE_S = 1.5
ROOM_POLL_S = 0.005
T = TypeVar("T")
_Marks = Mapping[int, Read]


class Ownership:
    """Keeps the partitions' state between the live one and Redis; implements `StateOwner`."""

    def __init__(
        self,
        live: Live,
        store: StateStore,
        topics: tuple[str, str],
        worker_id: str,
        source: str,
        metrics: Metrics,
        clock: Clock,
        *,
        flush_s: float,
        marks: WatermarkLog,
        fencer: Callable[[str], None],
        snapshots: Snapshots | None = None,
        append_time: Callable[[str, int], int] | None = None,
    ) -> None:
        """`topics` are transactions and labels; `source` is what `Meta` calls so.

        `fencer` ends what a transactional id has begun, and lets it begin nothing more. Until
        `announcer` is set no log is declared complete for being quiet. `append_time` says when the
        oldest record of a log was appended, in us.
        """
        self._source = source
        self.live, self._store, self.topics, self._worker_id = live, store, topics, worker_id
        self._metrics, self._clock, self._flush_s = metrics, clock, flush_s
        self._fencer, self._append_time = fencer, append_time
        self._snapshots = snapshots or Snapshots(None, live.namespace, live.partitions, source)
        self.announcer: Announcer | None = None
        self.transactional_id = ""
        """What this worker writes under now, if it writes in transactions."""
        self.renew: Callable[[], None] = lambda: None
        """Makes that another; called where a partition was given up unreleased."""
        self._in_doubt: set[str] = set()
        self.lock, self._writing = asyncio.Lock(), asyncio.Lock()
        self.backoff = Backoff()
        self.marks = Marks(live, store, marks, topics, clock, self.lock, self.backoff)
        self._moving: set[int] = set()
        self._say_again_at = 0.0
        self._fencing: tuple[tuple[int, ...], concurrent.futures.Future[_Marks]] | None = None
        self._fencing_since_s = 0.0
        self._read: _Marks = {}
        self._fenced: dict[int, int] = {}  # the epoch that was found
        self._held: dict[int, set[tuple[int, str, str]]] = {}  # claimed since it was assigned
        self._making_room = False
        self.progress = Progress(live)
        self._commits: Commits | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def begin(self, transactional_id: str) -> None:
        """Write under this id from now on.

        What the last one began is in doubt until it is fenced, also where Redis has lost that id.
        """
        self._in_doubt |= {self.transactional_id} - {""}
        self.transactional_id = transactional_id

    def start(self, commits: Commits) -> None:
        """See `StateOwner.start`: flushes now and then from now on."""
        self._commits, self._loop = commits, asyncio.get_running_loop()
        self._task = asyncio.create_task(self._flush_now_and_then())
        self._task.add_done_callback(commits.ended)
        if self._snapshots.every_s:
            self._keeping = asyncio.create_task(self._keep_now_and_then())
            self._keeping.add_done_callback(commits.ended)

    async def close(self) -> None:
        """Stop flushing."""
        tasks = [task for task in (self._task, self._keeping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._keeping = None
        await asyncio.to_thread(self.marks.log.close)

    def check(self) -> None:
        """Raise what ended the flushing."""
        if self.has_ended and self._task is not None:
            self._task.result()

    @property
    def has_ended(self) -> bool:
        """Whether the flushing ended by itself, which only a fault does."""
        return self._task is not None and self._task.done() and not self._task.cancelled()

    def fence(self, partitions: Sequence[int]) -> bool:
        """See `StateOwner.fence`; on the consumer's thread. May take several calls."""
        wanted = tuple(partitions)
        if self._fencing is None or self._fencing[0] != wanted:
            self._fence_no_more()
            self._fencing = (wanted, self._begun(self._fence(wanted)))
            self._fencing_since_s = time.monotonic()
        try:
            self._read = self._fencing[1].result(FENCE_S)  # meanwhile nothing else is read
        except concurrent.futures.TimeoutError:
            if time.monotonic() > self._fencing_since_s + FENCE_LONG_S:
                self._say("fencing former owners, or clearing state that cannot be used")
            return False
        except Unavailable as error:
            self._say(str(error))
            self._fencing = None
            return False
        self._fencing = None
        return True

    def _fence_no_more(self) -> None:
        """Leave former owners alone: what we were given is not what it was any more."""
        if self._fencing is not None:
            self._fencing[1].cancel()
            self._fencing = None

    async def _fence(self, partitions: Sequence[int]) -> _Marks:
        """End former owners' transactions, fill anew what cannot be used, read the watermarks."""
        keys = [meta_key(self.live.namespace, partition) for partition in partitions]
        starts: dict[int, int] = {}
        former = set(self._in_doubt)
        values = await self._store.fetch(keys)
        for partition, value in zip(partitions, values, strict=True):
            meta = Meta.parse(value)
            if meta is not None:
                its = self._held.get(partition)
                self._refuse_later(partition, meta)
                if not meta.released and (not its or _claimed(meta) in its):
                    # Else Redis was rolled back, to an owner who was gone before we came.
                    former.add(meta.transactional_id)
            if meta is None or partition in self.live.distrusted:
                if meta is not None:
                    self._snapshots.distrust(partition)
                meta = await self._fill_anew(partition, value)
                self.live.distrusted.discard(partition)
            starts[partition], self._fenced[partition] = meta.next_mark, meta.epoch
        for transactional_id in sorted(former - {"", self.transactional_id}):
            log.info("a former owner is fenced", transactional_id=transactional_id)
            await asyncio.to_thread(self._fencer, transactional_id)
            self._in_doubt.discard(transactional_id)
        return await self.marks.log.read(starts)

    async def _fill_anew(self, partition: int, value: bytes | None) -> Meta:
        """Delete a partition's state; what the newest snapshot has that fits is there instead."""
        rewrite = Rewrite(self._store, self.live.namespace, partition)
        try:
            await rewrite.begin(value)
            meta = await self._snapshots.refill(rewrite, partition)
            meta = meta or Meta(self.live.partitions, rewrite.epoch)
            await rewrite.end(meta)
        except OvertakenError:
            raise StoreUnavailable("somebody else is at work on the state") from None
        return meta

    def claim(
        self, partitions: Sequence[int], committed: Mapping[Position, int]
    ) -> Mapping[Position, int] | None:
        """See `StateOwner.claim`; on the consumer's thread."""
        self._moving |= set(partitions)  # a flush that waits for a commit of before gives up
        starts: Mapping[Position, int] | None
        starts = self._wait(self._claim(partitions, committed), CLAIM_S)
        if starts is None:
            self._moving -= set(partitions)  # others' flushes need not wait for the next try
        return starts

    def lacks(self, gone: Mapping[Position, int]) -> None:
        """See `StateOwner.lacks`; on the consumer's thread."""
        now_us = self._clock()
        for at, oldest in gone.items():
            meta = self.live.owned.get(at[1])
            if meta is None or never_began(meta, self.live.silent_until[at[1]]):
                continue
            since_us = self._append_time(*at) if self._append_time else now_us
            if reaches(since_us, now_us):  # else no window does
                before_us = self.live.whole_since_us.get(at[1], 0)
                self.live.whole_since_us[at[1]] = max(before_us, since_us)
                log.error(
                    "records are gone from the log that the state needs: features that reach back"
                    " before its oldest record are too low until no window does",
                    topic=at[0], partition=at[1], wanted=meta.next_offset, oldest=oldest,
                )  # fmt: skip

    def release(self, partitions: Sequence[int], *, lost: bool) -> None:
        """See `StateOwner.release`; on the consumer's thread."""
        if not partitions:
            return
        self._fence_no_more()
        held = [self._held.pop(partition, None) for partition in partitions]
        if lost and any(held):
            self.renew()  # what we wrote under is the next owner's to fence
            if self.transactional_id:
                self._must_commits().go_back()  # so that Redis names the new one for all we own
        self._moving |= set(partitions)
        timeout_s = 0.0 if lost else RELEASE_S  # who only forgets is not waited for
        self._wait(self._release(partitions, lost=lost), timeout_s, go_on=True)

    def _wait(
        self, work: Coroutine[Any, Any, Any], timeout_s: float, *, go_on: bool = False
    ) -> Any:
        future = self._begun(work)
        try:
            return future.result(timeout_s)
        except (concurrent.futures.TimeoutError, Unavailable) as error:
            if not go_on:
                future.cancel()
            if timeout_s:
                self._say(str(error) or "busy")
            return None

    def _begun(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Let the event loop begin what the consumer's thread wants done."""
        assert self._loop is not None, "start comes first"  # noqa: S101 -- our own order of calls
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _say(self, why: str) -> None:
        if time.monotonic() > self._say_again_at:
            self._say_again_at = time.monotonic() + SAY_AGAIN_S
            log.warning("the state waits", error=why)

    async def _claim(
        self, partitions: Sequence[int], committed: Mapping[Position, int]
    ) -> dict[Position, int] | None:
        async with self._writing, self.lock:
            starts: dict[Position, int] = {}
            self.live.drop(partitions)  # until the claim is certain nothing is written of them
            for partition in partitions:
                at = [committed.get((topic, partition), -1) for topic in self.topics]
                meta = await self._claim_one(partition, (at[0], at[1]))
                if meta is None:
                    return None
                silent_until = (max(at[0], 0), max(at[1], 0))
                self.live.adopt(partition, meta, silent_until)
                self.marks.quiet.forget(partition)
                for topic, offset in zip(self.topics, meta.next_offset, strict=True):
                    starts[topic, partition] = offset
                self.marks.know(partition, self._read.get(partition, ((), meta.next_mark)))
            self._moving -= set(partitions)
            return starts

    async def _claim_one(self, partition: int, committed: Pair) -> Meta | None:
        key = meta_key(self.live.namespace, partition)
        [value] = await self._store.fetch([key])
        found = Meta.parse(value)
        if found is None or found.epoch != self._fenced.get(partition):
            return None  # lost, or claimed by somebody else, since it was fenced: not now
        if any(0 <= c < offset for c, offset in zip(committed, found.next_offset, strict=True)):
            self.live.distrusted.add(partition)
            log.warning("the state in Redis is ahead of Kafka; it is cleared", partition=partition)
            return None
        if max(committed) > 0 == max(found.next_offset):
            log.warning("the state is built anew from the oldest records", partition=partition)
        if found.source not in ("", self._source):
            raise ConfigError(
                f"the state of partition {partition} in Redis is that of {found.source}, but this"
                f" worker is of {self._source}: give it another RISKWIRE_STATE_NAMESPACE"
            )
        its = self._held.setdefault(partition, set())
        risen = replace(found, epoch=max([found.epoch, *(epoch for epoch, _, _ in its)]))
        mine = risen.owned_by(self._worker_id, self._source, self.transactional_id)
        its.add(_claimed(mine))  # it may be done though no answer comes
        if await self._store.flush(key, value, mine.encode(), []):
            self._held[partition] = {_claimed(mine)}
            return mine
        its.discard(_claimed(mine))
        return None

    def _refuse_later(self, partition: int, found: Meta) -> None:
        """Raise StateError where somebody has claimed a partition since it was given to us.

        To fence him would be to stop whom the group has given it to meanwhile: we slept.
        """
        its = self._held.get(partition)
        is_anybodys = bool(found.owner)  # else it was made anew, and nobody has claimed it since
        if its and is_anybodys and _claimed(found) not in its and found.epoch >= max(its)[0]:
            raise taken_over(partition, found)

    async def _release(self, partitions: Sequence[int], *, lost: bool) -> None:
        async with self._writing:
            async with self.lock:
                held = [] if lost else [p for p in partitions if self._is_committed(p)]
                images = self.live.freeze(held)
            for image in images:
                await self._write(replace(image, after=replace(image.after, released=True)))
            async with self.lock:
                self.live.drop(partitions)
                self._moving -= set(partitions)

    def _is_committed(self, partition: int) -> bool:
        if partition not in self.live.owned or self._commits is None:
            return False
        if partition in self.live.lacking.partitions:
            return False  # what is in memory is not the state
        return all(
            self.live.next_offset[log_, partition]
            <= max(self._commits.committed((topic, partition)), 0)
            or self.live.next_offset[log_, partition]
            == self.live.owned[partition].next_offset[log_]
            for log_, topic in enumerate(self.topics)
        )

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            if self.announcer is not None:
                await self.marks.declare_quiet(
                    self._must_commits(), self.announcer, self._moving, lambda: self._making_room
                )
            await self.marks.read_now_and_then()
            await self.flush()
            now_us = self._clock()
            self._metrics.progress(self.progress.behind(now_us), self.progress.incomplete(now_us))

    async def _keep_now_and_then(self) -> None:
        """Take snapshots of owned partitions; nothing is flushed while one is taken."""
        while True:
            await asyncio.sleep(self._snapshots.every_s)
            for partition in tuple(self.live.owned):
                async with self._writing:
                    if partition in self.live.owned:
                        kept = await self._snapshots.keep(
                            self._store, partition, lambda: not self._moving
                        )
                        self._metrics.snapshot(ok=kept)

    async def flush(self) -> None:
        """Write what changed, once the offsets that it stands for are committed."""
        async with self._writing:
            images: list[Frozen] = []

            def still() -> bool:
                return all(self._is_current(image) for image in images)

            began = time.perf_counter()
            try:
                for partition in sorted(self.live.flushable()):
                    async with self.lock:  # each takes milliseconds: batches go on between them
                        images += self.live.freeze({partition} & self.live.flushable())
                offsets = {
                    (topic, image.partition): image.after.next_offset[log_]
                    for image in images
                    for log_, topic in enumerate(self.topics)
                    if image.after.next_offset[log_] != image.before.next_offset[log_]
                }
                # A batch that waits for room is begun, but nothing of it is in the images.
                if await self._must_commits().confirmed(offsets, still, but_one=self._making_room):
                    for image in images:
                        if image.before != image.after:
                            await self._write(image)
            finally:
                for image in images:
                    self.live.thaw(image)  # nothing where it was written
            self._metrics.flushed(
                time.perf_counter() - began, sum(len(image.pairs) for image in images)
            )

    async def make_room(self) -> None:
        """Flush for a caller that holds `lock`; other work may come between."""
        self.lock.release()
        self._making_room = True
        try:
            await self.flush()
            await asyncio.sleep(ROOM_POLL_S)  # where nothing could be flushed, others go on
        finally:
            await self.lock.acquire()
            self._making_room = False

    def _is_current(self, image: Frozen) -> bool:
        owned = self.live.owned.get(image.partition) is image.before
        return owned and not self._moving

    async def _write(self, image: Frozen) -> None:
        guard = meta_key(self.live.namespace, image.partition)
        before, after = image.before.encode(), image.after.encode()
        self.live.writing(image)

        async def write(_: None) -> bytes | None:
            if await self._store.flush(guard, before, after, image.pairs):
                return after
            # A write whose answer was lost may have been done all the same.
            [value] = await self._store.fetch([guard])
            return value

        value = await self.backoff.until_available("Redis", write, None)
        if value == after:
            self.live.flushed(image)
        elif self._is_current(image):
            self._not_ours(image, Meta.parse(value))

    def _not_ours(self, image: Frozen, found: Meta | None) -> None:
        """Redis holds something else than was written last: stop, or claim everything again."""
        if found is not None and found.epoch > image.after.epoch:
            raise taken_over(image.partition, found)
        log.warning(
            "Redis has lost what was written; the state is claimed again",
            partition=image.partition,
            found="older state" if found else "none",
        )
        self._must_commits().go_back()

    def _must_commits(self) -> Commits:
        assert self._commits is not None, "start comes first"  # noqa: S101 -- our own order
        return self._commits


def _claimed(meta: Meta) -> tuple[int, str, str]:
    """What tells one claim of a partition from all others."""
    return meta.epoch, meta.owner, meta.transactional_id
