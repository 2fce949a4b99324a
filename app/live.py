"""The live feature state of a worker: what it owns in memory, and what it still has to read.

The partitions that the worker owns have their customers and their shares of terminals here; shares
of other partitions are read-only copies with the watermarks of their source. `lookup` finds the
rows of a batch and names the keys that Redis must give; `advance` and `learn` take the answers and
run the kernel; `freeze` makes images of what changed, for a flush after the commit. Bounded: rows
that are in Redis as they are here may be given up. Pure: what is read and written is the caller's.
One thread at a time. Raises TableFull where everything is waiting to be flushed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from app.entities import Table
from app.errors import ConfigError, RiskwireError
from app.labels import Labels
from app.lacking import DEFAULTS, Lacking
from app.ledger import next_offsets
from app.meta import Meta, Pair, namespace
from app.records import Float32s, Int32s, Int64s, Ragged, RecordBatch, Transactions
from app.shed import FULL, RULE
from app.watermarks import Awaited, Watermark
from features import blob, kernel
from features.contract import DAY_US, LABEL_DELAY_DAYS, WIDTH, Timing, contract_id
from features.state import LABELS, NEVER, TRANSACTIONS, Flags, State

DELAY_US = LABEL_DELAY_DAYS * DAY_US
REREAD_US = 500_000
"""A copy whose source is behind is not read again before that time."""


class StateError(RiskwireError):
    """A record would enter the state twice, or it is another's; the worker starts anew."""


class Outdated(Exception):  # noqa: N818 -- no fault: what is in memory is claimed again
    """Redis does not hold what was written, or what it holds is damaged."""


def taken_over(partition: int, by: Meta) -> StateError:
    """What to raise where somebody else has claimed a partition's state."""
    return StateError(
        f"the state of partition {partition} belongs to {by.owner!r} now; this worker stops and"
        " starts anew"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Rows of a batch, and the keys whose values they need: customers, shares, then metas.

    `shares` int32 (n, partitions), or (n, 1) where only those of the own partition are wanted.
    """

    customers: Int32s
    shares: Int32s
    new_customers: Int32s
    load: Int64s
    sources: tuple[int, ...]
    keys: list[bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """Images of what changed in a partition since the last flush, and what they stand for."""

    partition: int
    before: Meta
    after: Meta
    pairs: list[tuple[bytes, bytes]]
    customers: Int64s
    shares: Int64s


class Live:
    """State of the partitions in `owned`; `partitions` is how many the topic has."""

    def __init__(
        self,
        timing: Timing,
        partitions: int,
        customers_max: int,
        shares_max: int,
        name: str = "",
    ) -> None:
        """Begin empty, owning nothing; `name` tells deployments apart that share a Redis."""
        self.namespace = namespace(contract_id(timing), name)
        self.timing, self.partitions = timing, partitions
        terminals = max(1, shares_max // partitions)
        self.customers, self.terminals = Table(customers_max), Table(terminals)
        self.state = State.empty(customers_max, terminals * partitions, partitions, timing)
        self.owned: dict[int, Meta] = {}  # as Redis has it
        self.next_offset: dict[tuple[int, int], int] = {}  # by log and partition
        self.silent_until: dict[int, Pair] = {}
        self.next_mark: dict[int, int] = {}
        self.whole_since_us: dict[int, int] = {}  # as `Meta` says it
        self._awaited = Awaited()
        self._written: dict[int, list[Meta]] = {}  # what Redis may hold: the last is on its way
        self.damaged = 0
        self.distrusted: set[int] = set()
        """Partitions whose state in Redis is damaged; a claim builds it anew."""
        self.lacking = Lacking(customers_max)
        self.handovers = np.zeros(partitions, np.int64)
        """By partition, how often it was adopted or dropped."""
        self._changed = {
            "c": np.zeros(customers_max, np.bool_), "s": np.zeros(terminals * partitions, np.bool_),
        }  # fmt: skip
        self._pinned = {name: np.zeros_like(rows) for name, rows in self._changed.items()}
        self._loaded = np.zeros(terminals * partitions, np.bool_)
        self._read_us = np.zeros(terminals * partitions, np.int64)

    def adopt(self, partition: int, meta: Meta, silent_until: Pair) -> None:
        """Own a partition as Redis has it; records before `silent_until` were answered before."""
        if partition >= self.partitions or meta.partitions != self.partitions:
            raise ConfigError(
                f"partition {partition} of {meta.partitions} does not fit to RISKWIRE_PARTITIONS="
                f"{self.partitions}: set it to the number that the topic has"
            )
        self.drop([partition])
        self.owned[partition], self.silent_until[partition] = meta, silent_until
        self.next_mark[partition], self._written[partition] = meta.next_mark, [meta]
        self.whole_since_us[partition] = meta.whole_since_us
        self.distrusted.discard(partition)
        self.state.owned[partition] = True
        for log in (TRANSACTIONS, LABELS):
            self.next_offset[log, partition] = meta.next_offset[log]
        self.state.newest_us[:, partition] = meta.newest_us
        self.state.quiet_us[:, partition] = meta.quiet_us
        self.state.held_us[:, partition] = meta.held_us

    @property
    def is_everywhere(self) -> bool:
        """Whether all partitions are owned, so that nobody else has any."""
        return len(self.owned) == self.partitions

    def owns(self, partition: Int32s) -> bool:
        """Whether all of these partitions are owned."""
        return bool(self.state.owned[partition].all())

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget all of these partitions; what was not flushed is in the logs."""
        for partition in partitions:
            self.handovers[partition] += 1
            self._forget(partition)
            self.state.forget_partition(partition)
            self.state.owned[partition] = False
            self.owned.pop(partition, None)
            self.lacking.partitions.discard(partition)
            self.next_mark.pop(partition, None)
            self._awaited.forget(partition)
            for log in (TRANSACTIONS, LABELS):
                self.next_offset.pop((log, partition), None)

    def _forget(self, partition: int) -> None:
        """Forget the entities of a partition."""
        rows = self.customers.in_use(partition).astype(np.int32)
        self.state.forget_customers(rows)
        self.customers.forget(rows)
        for flags in (self._changed, self._pinned):
            flags["c"][rows] = False
            flags["s"][partition :: self.partitions] = False
        self._loaded[partition :: self.partitions] = False
        shares = np.arange(partition, len(self._loaded), self.partitions, dtype=np.int32)
        used = shares[self.state.s_count[shares] + self.state.f_count[shares] > 0]
        self.state.forget_shares(used)

    def lack(self, pending: Pending) -> None:
        """Go on without what Redis has of these: their partitions' state is wrong from now on."""
        self.lacking.add(self.owned.keys() & set(pending.sources), pending.new_customers)

    def lose(self) -> None:
        """Make room where nothing can be flushed: forget what is owned, which is lacking then."""
        for partition in self.owned:
            self._forget(partition)
        self.lacking.partitions |= self.owned.keys()

    def lookup(self, transactions: Transactions, now_us: int, level: int = FULL) -> Pending:
        """Find the rows of transactions and say what is missing.

        Below FULL (`app.shed`), of terminals only what the state needs: the own partition's shares.
        """
        n = len(transactions)
        self._make_room(self.customers, "c", 1, n)
        self._make_room(self.terminals, "s", self.partitions, n)
        customers, new = self.customers.rows(
            transactions.strings("customer_id"), transactions.partition
        )
        shares = self._shares(transactions.strings("terminal_id"))
        if level > FULL:
            shares = shares[np.arange(n), transactions.partition][:, np.newaxis]
            load = np.unique(shares[~self._loaded[shares]]).astype(np.int64)
        else:
            load = self._to_load(shares, transactions.event_time_us, now_us)
        return self._pending(customers, shares, new, load)

    def lookup_labels(self, labels: Labels) -> Pending:
        """Find the shares that labels belong to."""
        self._make_room(self.terminals, "s", self.partitions, len(labels))
        shares = self._shares(labels.terminals)
        own = shares[np.arange(len(labels)), labels.partition]
        load = np.unique(own[~self._loaded[own]]).astype(np.int64)
        nobody = np.empty(0, np.int32)
        return self._pending(nobody, shares, nobody, load)

    def _shares(self, tokens: Ragged) -> Int32s:
        p = self.partitions
        terminals, new = self.terminals.rows(tokens, np.zeros(len(tokens), np.int32))
        for row in new.tolist():
            self._loaded[row * p : (row + 1) * p] = False
            self._read_us[row * p : (row + 1) * p] = 0
        return np.add.outer(terminals * p, np.arange(p)).astype(np.int32)

    def _to_load(self, shares: Int32s, event_time_us: Int64s, now_us: int) -> Int64s:
        """Shares not read yet, and copies that do not reach far enough any more."""
        wanted = shares[~self._loaded[shares]]
        copies = [q for q in range(self.partitions) if q not in self.owned]
        if copies:
            theirs = shares[:, copies]
            marks, t = self.state.mark_us[theirs], event_time_us[:, np.newaxis]
            behind = marks[..., TRANSACTIONS] <= t - DELAY_US
            behind |= marks[..., LABELS] <= t - self.timing.skew_us
            heard = self.state.quiet_us[:, copies]
            enough = (heard[TRANSACTIONS] > t - DELAY_US) & (
                heard[LABELS] > t - self.timing.skew_us
            )
            behind &= enough | (self._read_us[theirs] < now_us - REREAD_US)
            wanted = np.concatenate([wanted, theirs[behind]])
        load = np.unique(wanted).astype(np.int64)
        self._read_us[load] = now_us
        return load

    def _pending(self, customers: Int32s, shares: Int32s, new: Int32s, load: Int64s) -> Pending:
        if not len(new) and not len(load):
            return Pending(customers, shares, new, load, (), [])
        sources = {row % self.partitions for row in load.tolist()}
        sources |= set(self.customers.groups(new).tolist())
        for partition in sources & self._written.keys() & self.owned.keys():
            since = self._written[partition].index(self.owned[partition])
            del self._written[partition][:since]
        keys = [
            *self._keys(new, load),
            *(blob.meta_key(self.namespace, partition) for partition in sorted(sources)),
        ]
        return Pending(customers, shares, new, load, tuple(sorted(sources)), keys)

    def _keys(self, customers: Int32s | Int64s, shares: Int64s) -> list[bytes]:
        """The keys of these rows: customers, then shares."""
        people, places, p = self.customers, self.terminals, self.partitions
        customer_key = partial(blob.customer_key, self.namespace)
        share_key = partial(blob.share_key, self.namespace)
        return [
            *map(customer_key, people.groups(customers).tolist(), people.tokens(customers)),
            *map(share_key, (shares % p).tolist(), places.tokens(shares // p)),
        ]

    def take(self, pending: Pending, blobs: Sequence[bytes | None]) -> None:
        """Let the state have what Redis answered to `pending.keys`.

        Raises Outdated where Redis does not hold what was written to it of an owned partition, and
        StateError where it is another's by now.
        """
        if not pending.keys and not self.distrusted:
            return
        first, second = len(pending.new_customers), len(pending.load)
        values = zip(pending.sources, blobs[first + second :], strict=True)
        metas = {q: Meta.parse(value) for q, value in values}
        for q in metas.keys() & self.owned.keys():
            self._check(q, metas[q])
        people, rows = pending.new_customers, pending.load.astype(np.int32)
        self.damaged += blob.unpack_customers(self.state, people, blobs[:first])
        bad = people[_found(blobs[:first]) & (self.state.c_count[people] == 0)]
        self.distrusted |= set(self.customers.groups(bad).tolist())
        self.damaged += blob.unpack_shares(self.state, rows, blobs[first : first + second])
        self._loaded[rows] = True
        self.lacking.read(people)
        for q in metas.keys() - self.owned.keys():
            meta = metas[q]
            marks = meta.watermarks(self.timing.lateness_us) if meta else (NEVER, NEVER)
            self.state.mark_us[rows[rows % self.partitions == q]] = marks
        empty = self.state.s_count[rows] + self.state.f_count[rows] == 0
        bad = rows[_found(blobs[first : first + second]) & empty]
        self.state.mark_us[bad] = NEVER  # so that vectors with a damaged copy are provisional
        self.distrusted |= {row % self.partitions for row in bad.tolist()} & self.owned.keys()
        if self.distrusted:
            raise Outdated

    def _check(self, partition: int, found: Meta | None) -> None:
        if found is not None and found.epoch > self.owned[partition].epoch:
            raise taken_over(partition, found)
        if found not in self._written[partition]:
            raise Outdated

    def advance(
        self, transactions: Transactions, pending: Pending, level: int = FULL
    ) -> tuple[Float32s, Flags]:
        """The vectors float32 (n, WIDTH) and whether each is provisional; then remember.

        `level` is that of the lookup. The state that is left does not depend on it.
        """
        n, partition = len(transactions), transactions.partition
        out = np.empty((n, WIDTH), np.float32) if level == FULL else np.tile(DEFAULTS, (n, 1))
        provisional = np.zeros(n, np.bool_)
        for rows in self._pieces(TRANSACTIONS, partition, transactions.offset):
            vectors, flags = out[rows], provisional[rows]
            its = (
                self.state, pending.customers[rows], pending.shares[rows], partition[rows],
                transactions.event_time_us[rows], transactions.amount_minor[rows], vectors,
            )  # fmt: skip
            if level == FULL:
                kernel.advance(*its, flags)
            else:
                kernel.advance_alone(*its, level < RULE)
            out[rows], provisional[rows] = vectors, flags
        own = partition if level == FULL else np.zeros(n, np.int32)
        self._changed["c"][pending.customers] = True
        self._changed["s"][pending.shares[np.arange(n), own]] = True
        return out, provisional

    def without(self, matrix: Float32s, pending: Pending) -> Flags:
        """Let vectors have the defaults of entities that Redis did not give; which have them."""
        unread: Flags = ~np.logical_and.reduce(self._loaded[pending.shares], axis=1)
        return self.lacking.replace(matrix, pending.customers, unread)

    def learn(self, labels: Labels, pending: Pending) -> None:
        """Remember outcomes."""
        shares = pending.shares[np.arange(len(labels)), labels.partition]
        for rows in self._pieces(LABELS, labels.partition, labels.offset):
            kernel.learn(
                self.state, shares[rows], labels.partition[rows], labels.event_time_us[rows],
                labels.known_at_us[rows], labels.tag[rows], labels.fraud[rows],
            )  # fmt: skip
        self._changed["s"][shares[self.state.f_count[shares] > 0]] = True

    def _pieces(self, log: int, partition: Int32s, offset: Int64s) -> Iterator[Any]:
        """The rows of n records between which watermarks begin to hold: nearly always all."""
        if not self._awaited:
            yield slice(None)
            return
        left = np.arange(len(offset))
        while len(left):
            its, at = partition[left], offset[left]
            for p, first in zip(*np.unique(its, return_index=True), strict=True):
                self._settle(log, int(p), int(at[first]))
            now = at < self._awaited.limits(log, its)
            yield left[now]
            left = left[~now]
        for (log_, p), next_offset in self.next_offset.items():
            if log_ == log:
                self._settle(log, p, next_offset)

    def declare(self, partition: int, mark: Watermark) -> None:
        """Let a watermark of an owned partition hold from its position on.

        One for a position that the state is past was there before, or came from a former owner
        when it was one no longer: it counts for nothing.
        """
        next_offset = self.next_offset[mark.log, partition]
        if mark.position >= next_offset:
            self._awaited.add(partition, mark)
            self._settle(mark.log, partition, next_offset)

    def _settle(self, log: int, partition: int, offset: int) -> None:
        known = self.state.quiet_us
        due = self._awaited.due(log, partition, offset)
        known[log, partition] = max(known[log, partition], due)

    def hear(self, partition: int, meta: Meta) -> None:
        """Know how far the owner of another partition is."""
        if partition not in self.owned:
            self.state.quiet_us[:, partition] = meta.watermarks(self.timing.lateness_us)

    def applied(self, log: int, records: RecordBatch) -> None:
        """Let these records of a log be in the state; raises StateError if one was before."""
        for partition, first in zip(*_firsts(records), strict=True):
            if first < self.next_offset[log, partition]:
                raise StateError(f"offset {first} of partition {partition} is in the state already")
        for partition, offset in next_offsets(records).items():
            self.next_offset[log, partition] = offset

    def silent(self, log: int, partition: Int32s, offset: Int64s) -> Flags:
        """Which records were answered before this worker came: they only make state."""
        until = np.zeros(self.partitions, np.int64)
        for p, pair in self.silent_until.items():
            until[p] = pair[log]
        quiet: Flags = offset < until[partition]
        return quiet

    def ages_s(self, now_us: int) -> dict[tuple[str, str], float]:
        """How old the newest record is that the views of an entity rest on, by entity and log."""
        newest = {
            log: int(self.state.newest_us[k, list(self.owned)].max(initial=NEVER))
            for k, log in enumerate(("transactions", "labels"))
        }
        views = [("customer", "transactions"), ("terminal", "transactions"), ("terminal", "labels")]
        return {
            (entity, log): (now_us - newest[log]) / 1e6
            for entity, log in views
            if newest[log] > NEVER
        }

    def is_ahead(self) -> bool:
        """Whether there is anything to flush."""
        return any(self._meta(p, before) != before for p, before in self.owned.items())

    def freeze(self, partitions: Iterable[int] | None = None) -> list[Frozen]:
        """Images of what changed since the last time; None: of all owned that lack nothing.

        The rows stay in memory until `flushed`.
        """
        wanted = self.flushable() if partitions is None else partitions
        return [self._image(p) for p in sorted(wanted)]

    def flushable(self) -> set[int]:
        """The partitions that are owned and lack nothing."""
        return self.owned.keys() - self.lacking.partitions

    def _image(self, partition: int) -> Frozen:
        changed, pinned = self._changed, self._pinned
        customers = self.customers.in_use(partition)
        customers = customers[changed["c"][customers]]
        shares = np.flatnonzero(changed["s"][partition :: self.partitions])
        shares = shares * self.partitions + partition
        keys = self._keys(customers, shares)
        images = [
            *blob.pack_customers(self.state, customers.astype(np.int32)),
            *blob.pack_shares(self.state, shares.astype(np.int32)),
        ]
        for name, rows in (("c", customers), ("s", shares)):
            changed[name][rows] = False
            pinned[name][rows] = True
        before = self.owned[partition]
        return Frozen(
            partition, before, self._meta(partition, before),
            list(zip(keys, images, strict=True)), customers, shares,
        )  # fmt: skip

    def _meta(self, partition: int, before: Meta) -> Meta:
        state, offsets = self.state, self.next_offset
        newest, quiet, held = (
            (int(times[TRANSACTIONS, partition]), int(times[LABELS, partition]))
            for times in (state.newest_us, state.quiet_us, state.held_us)
        )
        return replace(
            before,
            next_offset=(offsets[TRANSACTIONS, partition], offsets[LABELS, partition]),
            newest_us=newest,
            quiet_us=quiet,
            held_us=held,
            whole_since_us=self.whole_since_us[partition],
            # Those that are still awaited are read again.
            next_mark=before.next_mark
            if self._awaited.of(partition)
            else self.next_mark[partition],
        )

    def writing(self, frozen: Frozen) -> None:
        """Let an image be on its way to Redis."""
        if self.owned.get(frozen.partition) is frozen.before:
            self._written[frozen.partition].append(frozen.after)

    def flushed(self, frozen: Frozen) -> None:
        """Let an image be in Redis: its rows may be given up once they are not used."""
        if self.owned.get(frozen.partition) is not frozen.before:
            return  # given up or claimed anew meanwhile
        self.owned[frozen.partition] = frozen.after
        self._pinned["c"][frozen.customers] = False
        self._pinned["s"][frozen.shares] = False

    def thaw(self, frozen: Frozen) -> None:
        """Forget an image that was not flushed: what changed is still to be written."""
        if self.owned.get(frozen.partition) is frozen.before:
            for name, rows in (("c", frozen.customers), ("s", frozen.shares)):
                self._changed[name][rows] = True
                self._pinned[name][rows] = False

    def _make_room(self, table: Table, kind: str, width: int, wanted: int) -> None:
        if table.free >= wanted:
            return
        held = self._changed[kind] | self._pinned[kind]
        may_go: Flags = ~np.logical_or.reduce(held.reshape(-1, width), axis=1)
        gone = table.evict(may_go, wanted - table.free)
        if kind == "c":
            self.state.forget_customers(gone.astype(np.int32))
        else:
            shares = gone[:, np.newaxis] * width + np.arange(width)
            self.state.forget_shares(shares.ravel().astype(np.int32))


def _found(blobs: Sequence[bytes | None]) -> Flags:
    return np.array([each is not None for each in blobs], np.bool_)


def _firsts(records: RecordBatch) -> tuple[list[int], list[int]]:
    """The partitions of a batch, and the first offset of each."""
    partitions, first = np.unique(records.partition, return_index=True)
    return partitions.tolist(), records.offset[first].tolist()
