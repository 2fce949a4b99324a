"""The native consumer: record batches as columns from librdkafka's batch call (port `Source`).

One thread makes all calls. Rebalance callbacks arrive inside `poll`; the listener's `revoked`
finishes what is in hand before the partitions are given up. Outside faults leave as
BrokerUnavailable; errors that librdkafka recovers from by itself are logged.
"""

import ctypes as c
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import structlog

from app.adapters import librdkafka as rk
from app.adapters import native_loops
from app.adapters.companions import Companions
from app.adapters.unreadable import UNREADABLE, Unreadable
from app.batching import ByteBound
from app.errors import BrokerUnavailable
from app.ports import RebalanceListener
from app.records import Int64s, Ragged, RecordBatch

log = structlog.get_logger("riskwire.kafka")
_REQUEST_MS = 10_000
Partitions = Sequence[tuple[str, int]]


class NativeSource:
    """A member of a consumer group on librdkafka's C API."""

    def __init__(
        self,
        options: Mapping[str, str],
        topics: Sequence[str],
        listener: RebalanceListener,
        records_max: int,
        companions: Sequence[str] = (),
        bytes_max: int = 1 << 23,
    ) -> None:
        """Connect and subscribe; raises NativeTransportError or ConfigError.

        A batch ends at `records_max`, and at about `bytes_max` of keys, values and headers.
        Of each companion, the partitions with the numbers of our first topic's are read too.
        """
        rk.check()
        native_loops.compile_loops()
        self._listener = listener
        self._owned: set[tuple[str, int]] = set()
        self._failure: BaseException | None = None
        self._unreadable = Unreadable()
        self._reached: dict[tuple[str, int], int] = {}
        self._callbacks = (
            rk.RebalanceCallback(self._rebalance),
            rk.ErrorCallback(self._error),
            rk.log_callback(log_line),
        )
        conf = rk.configuration(options)
        rk.conf_set_rebalance_cb(conf, self._callbacks[0])
        rk.conf_set_error_cb(conf, self._callbacks[1])
        rk.conf_set_log_cb(conf, self._callbacks[2])
        self._client = rk.handle(rk.CONSUMER, conf)
        self._companions = Companions(
            topics[0], companions, partial(rk.partition_count, self._client, timeout_ms=_REQUEST_MS)
        )
        rk.poll_set_consumer(self._client)
        self._queue = rk.queue_get_consumer(self._client)
        self._addresses = np.zeros(records_max, np.uint64)
        self._bound = ByteBound(bytes_max)
        with _list({(topic, rk.PARTITION_ANY): rk.OFFSET_INVALID for topic in topics}) as wanted:
            rk.raise_for(rk.subscribe(self._client, wanted), "subscribe")

    def poll(self, records_max: int, wait_ms: int, linger_ms: int) -> list[RecordBatch]:
        """See `Source.poll`."""
        # The call waits its whole time-out unless it is full: the first record is asked for alone.
        at = self._addresses.ctypes.data
        n = max(0, int(rk.consume_batch_queue(self._queue, wait_ms, at, 1)))
        if n:
            n = self._fill(records_max, linger_ms)
        try:
            self._raise_failure()
            batches = self._columns(n, time.time_ns() // 1000)
            errors = self._errors(n) if sum(map(len, batches)) < n else []
        finally:
            native_loops.release(self._addresses, n)
        for error in errors:
            self._consume_error(*error)
        self._unreadable.came(batches)
        return batches

    def _fill(self, records_max: int, linger_ms: int) -> int:
        """Add to the first record what comes, as far as the bounds go; how many there are."""
        at, end_s = self._addresses.ctypes.data, time.monotonic() + linger_ms / 1000
        first, n = 0, 1
        self._bound.begin()
        while True:
            total, largest = native_loops.weigh(self._addresses, first, n)
            wanted = self._bound.more(total, largest, records_max - n)
            if not wanted:
                return n
            left_ms = max(0, round(1000 * (end_s - time.monotonic())))
            came = int(rk.consume_batch_queue(self._queue, left_ms, at + 8 * n, wanted))
            first, n = n, n + max(0, came)
            if came < wanted:
                return n

    def _columns(self, n: int, polled_us: int) -> list[RecordBatch]:
        length = np.empty((3, n), np.int32)
        headers, good = np.empty(n, np.uint64), np.empty(n, np.int64)
        k = native_loops.measure(self._addresses, n, length, headers, good)
        if k == 0:
            return []
        length[:, k:] = 0  # whole arrays go to the loop: a slice would be another type to compile
        size = np.maximum(length, 0).astype(np.int64)
        start = (np.cumsum(size.ravel()) - size.ravel()).reshape(3, n)
        data = np.empty(int(size.sum()), np.uint8)
        partition, offset = np.empty(k, np.int32), np.empty(k, np.int64)
        timestamp, kind = np.empty(k, np.int64), np.empty(k, np.int8)
        rkt = np.empty(k, np.uint64)
        native_loops.drain(
            self._addresses, good, k, headers, length, start, data,
            partition, offset, timestamp, kind, rkt,
        )  # fmt: skip
        data.flags.writeable = False
        keys, values, packed = (Ragged(data, start[i, :k], length[i, :k]) for i in range(3))

        def batch(address: np.uint64) -> RecordBatch:
            topic = rk.topic_name(int(address)).decode()
            return RecordBatch(
                topic, partition, offset, timestamp, kind, keys, values, packed, polled_us
            )

        if (rkt == rkt[0]).all():
            return [batch(rkt[0])]
        rows: dict[np.uint64, Int64s] = {a: np.flatnonzero(rkt == a) for a in dict.fromkeys(rkt)}
        return [batch(address).take(at) for address, at in rows.items()]

    def _errors(self, n: int) -> list[tuple[int, str, str, int, int]]:
        bad = native_loops.errors(self._addresses, n)
        messages = (rk.Message.from_address(int(a)) for a in self._addresses[bad])
        return [
            (
                m.err,
                c.string_at(m.payload, m.len).decode("utf-8", "replace") if m.payload else "",
                rk.topic_name(m.rkt).decode() if m.rkt else "",
                m.partition,
                m.offset,
            )
            for m in messages
        ]

    def _consume_error(self, code: int, text: str, topic: str, partition: int, offset: int) -> None:
        if code == rk.ERR_PARTITION_EOF:
            self._reached[topic, partition] = offset
            return
        if code in UNREADABLE:
            self._unreadable.failed(topic, partition, text)
            return
        if code == rk.ERR_FATAL or rk.fatal(self._client):
            raise BrokerUnavailable(f"consumer: {rk.fatal(self._client) or text}")
        log.warning("consumer error", code=rk.err2str(code).decode(), detail=text)

    def _error(self, client: int, code: int, reason: bytes, _opaque: int) -> None:
        text = reason.decode("utf-8", "replace")
        if code == rk.ERR_FATAL:
            self._failure = BrokerUnavailable(f"consumer: {rk.fatal(client) or text}")
        else:
            log.warning("broker trouble", code=rk.err2str(code).decode(), detail=text)

    def _rebalance(self, client: int, code: int, partitions: Any, _opaque: int) -> None:
        # An exception cannot cross the C frame: it is kept and raised by the poll around this call.
        cooperative = rk.rebalance_protocol(client) == b"COOPERATIVE"
        at = list(rk.partition_offsets(partitions))
        besides = (
            self._companions.joining(at)
            if code == rk.ERR_ASSIGN
            else self._companions.leaving(at, self._owned)
        )
        at += besides
        try:
            if code == rk.ERR_ASSIGN:
                self._owned |= set(at)
                self._listener.assigned(at)
            else:
                self._listener.revoked(at, lost=bool(rk.assignment_lost(client)))
                self._owned -= set(at)
                self._unreadable.left(at)
        except Exception as failure:  # noqa: BLE001 -- see above
            self._failure = failure
        every = rk.list_copy(partitions)
        for topic, partition in besides:
            rk.list_add(every, topic.encode(), partition)  # no offset: where the group stands
        try:
            if not cooperative:
                whole = every if code == rk.ERR_ASSIGN else None
                rk.raise_for(rk.assign(client, whole), "assign")
            elif code == rk.ERR_ASSIGN:
                _object(rk.incremental_assign(client, every), "assign")
            else:
                _object(rk.incremental_unassign(client, every), "unassign")
        except BrokerUnavailable as failure:
            self._failure = self._failure or failure
        finally:
            rk.list_destroy(every)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def assignment(self) -> set[tuple[str, int]]:
        """See `Source.assignment`."""
        return set(self._owned)

    def commit(self, offsets: Mapping[tuple[str, int], int], *, wait: bool) -> None:
        """See `Source.commit`."""
        mine = {at: offset for at, offset in offsets.items() if at in self._owned}
        if mine:
            with _list(mine) as partitions:
                error = rk.commit(self._client, partitions, 0 if wait else 1)
            rk.raise_for(0 if error == rk.ERR_NO_OFFSET else error, "commit offsets")

    def committed(self, partitions: Partitions) -> dict[tuple[str, int], int]:
        """See `Source.committed`."""
        with _list(dict.fromkeys(partitions, rk.OFFSET_INVALID)) as wanted:
            error = rk.committed(self._client, wanted, _REQUEST_MS)
            rk.raise_for(error, "read committed offsets")
            rk.raise_for_elements(wanted, "read committed offsets")
            found = rk.partition_offsets(wanted)
        return {at: offset for at, offset in found.items() if offset >= 0}

    def seek(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """See `Source.seek`."""
        for at in offsets:
            self._reached.pop(at, None)
        with _list(offsets) as partitions:
            _object(rk.seek_partitions(self._client, partitions, _REQUEST_MS), "seek")
            rk.raise_for_elements(partitions, "seek")

    def ends(self) -> dict[tuple[str, int], int]:
        """See `Source.ends`."""
        low, high = c.c_int64(), c.c_int64()
        found = {}
        for topic, partition in self._owned:
            where = (self._client, topic.encode(), partition)
            rk.get_watermark_offsets(*where, c.byref(low), c.byref(high))
            if high.value >= 0:
                found[topic, partition] = high.value
        return found

    def reached(self) -> Mapping[tuple[str, int], int]:
        """See `Source.reached`."""
        return self._reached

    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """See `Source.unreadable`."""
        return self._unreadable.why

    def group_metadata(self) -> object:
        """See `Source.group_metadata`; whoever asks for it destroys it."""
        return int(rk.consumer_group_metadata(self._client))

    def beginnings(self) -> dict[tuple[str, int], int]:
        """See `Source.beginnings`."""
        low, high = c.c_int64(), c.c_int64()
        found = {}
        for topic, partition in self._owned:
            where = (self._client, topic.encode(), partition, c.byref(low), c.byref(high))
            rk.raise_for(rk.query_watermark_offsets(*where, _REQUEST_MS), "read the log's begin")
            found[topic, partition] = low.value
        return found

    def pause(self, partitions: Partitions) -> None:
        """See `Source.pause`."""
        with _list(dict.fromkeys(partitions, rk.OFFSET_INVALID)) as wanted:
            rk.raise_for(rk.pause_partitions(self._client, wanted), "pause")

    def resume(self, partitions: Partitions) -> None:
        """See `Source.resume`."""
        with _list(dict.fromkeys(partitions, rk.OFFSET_INVALID)) as wanted:
            rk.raise_for(rk.resume_partitions(self._client, wanted), "resume")

    def close(self) -> None:
        """See `Source.close`."""
        if self._client:
            rk.consumer_close(self._client)
            rk.queue_destroy(self._queue)
            rk.destroy(self._client)
            self._client = 0


@contextmanager
def _list(offsets: Mapping[tuple[str, int], int]) -> Iterator[Any]:
    partitions = rk.partition_list(offsets)
    try:
        yield partitions
    finally:
        rk.list_destroy(partitions)


def _object(error: int | None, doing: str) -> None:
    rk.raise_for_object(error, doing)


def log_line(level: int, facility: str, text: str) -> None:
    """One of librdkafka's own log lines (syslog levels) into ours."""
    write = log.error if level <= 3 else log.warning if level <= 5 else log.debug
    write("librdkafka", facility=facility, detail=text)
