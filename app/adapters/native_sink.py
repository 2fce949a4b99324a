"""The native producer: whole micro-batches out through librdkafka's batch call (port `Sink`).

A batch's records carry its ticket; delivery reports come as events of many records, and a Numba
loop takes each off its ticket's count. A record that could not be delivered ends the sink: nothing
it reported after that may be committed (BrokerUnavailable; the worker rewinds with a new sink).
"""

import ctypes as c
from collections import deque
from collections.abc import Mapping

import numpy as np

from app.adapters import librdkafka as rk
from app.adapters import native_loops
from app.adapters.native_source import log_line
from app.adapters.transport import BYTES_MAX, queue_limits
from app.errors import BrokerUnavailable
from app.records import Columns, Letter, Outbound

_TICKETS = 4096  # more than can be outstanding: each holds at least one record of the send queue
_EVENT_RECORDS = 100_000
_PURGE_QUEUE_AND_FLIGHT = 0x3


class NativeSink:
    """A producer on librdkafka's C API, acknowledged batch by batch."""

    events = rk.EVENT_DR | rk.EVENT_ERROR

    def __init__(self, options: Mapping[str, str], records_max: int) -> None:
        """Create the producer, which connects by itself.

        Raises NativeTransportError or ConfigError.
        """
        rk.check()
        native_loops.compile_loops()
        conf = rk.configuration({**options, **queue_limits(records_max)})
        rk.conf_set_events(conf, self.events)
        self._log = rk.log_callback(self._log_line)
        rk.conf_set_log_cb(conf, self._log)
        self._client = rk.handle(rk.PRODUCER, conf)
        self._queue = rk.queue_get_main(self._client)
        self._topics: dict[str, int] = {}
        self._records_max = records_max
        self._structs = np.zeros(0, rk.MESSAGE)
        self._remaining = np.zeros(_TICKETS, np.int64)
        self._outstanding: deque[int] = deque()
        self._bytes: deque[int] = deque()
        self._reports = np.zeros(_EVENT_RECORDS, np.uint64)

    def _log_line(self, level: int, facility: str, text: str) -> None:
        log_line(level, facility, text)

    def room(self, records: int) -> bool:
        """See `Sink.room`."""
        waiting = int(rk.outq_len(self._client))
        fits = waiting == 0 or waiting + records <= self._records_max
        return fits and len(self._outstanding) < _TICKETS - 1 and sum(self._bytes) < BYTES_MAX

    def send(self, outbound: Outbound, ticket: int) -> None:
        """See `Sink.send`; raises BrokerUnavailable if librdkafka refuses a record."""
        self._outstanding.append(ticket)
        self._bytes.append(sum(len(letter.value or b"") for letter in outbound.letters))
        self._remaining[ticket % _TICKETS] = len(outbound)
        self._produce(outbound, ticket)

    def _produce(self, outbound: Outbound, ticket: int) -> None:
        for columns in outbound.columns:
            if len(columns):
                self._send_columns(columns, ticket)
        for letter in outbound.letters:
            self._send_letter(letter, ticket)

    def _topic(self, name: str) -> int:
        if name not in self._topics:
            self._topics[name] = rk.topic_new(self._client, name.encode(), None)
        return self._topics[name]

    def _send_columns(self, columns: Columns, ticket: int) -> None:
        n = len(columns)
        if len(self._structs) < n:
            self._structs = np.zeros(n, rk.MESSAGE)
        structs, keys, values = self._structs, columns.keys, columns.values
        native_loops.fill(
            structs, columns.partition, keys.data.ctypes.data, keys.start, keys.length,
            values.data.ctypes.data, values.start, values.length, ticket,
        )  # fmt: skip
        address = structs.ctypes.data
        flags = rk.MSG_COPY | rk.MSG_PARTITION
        queued = rk.produce_batch(self._topic(columns.topic), rk.PARTITION_ANY, flags, address, n)
        if queued != n:
            errors = structs["err"][:n]
            rk.raise_for(int(errors[np.flatnonzero(errors)[0]]), f"produce to {columns.topic}")

    def _send_letter(self, letter: Letter, ticket: int) -> None:
        arguments = (rk.Tagged * (6 + len(letter.headers)))()
        kept = []  # what the arguments point at, until the call has copied it

        def memory(slot: rk.Tagged, kind: int, value: bytes | None) -> None:
            slot.vtype = kind
            if value is not None:
                kept.append(buffer := c.create_string_buffer(value, len(value) + 1))
                slot.u.mem.ptr, slot.u.mem.size = c.addressof(buffer), len(value)

        arguments[0].vtype, arguments[0].u.cstr = rk.VTYPE_TOPIC, letter.topic.encode()
        arguments[1].vtype, arguments[1].u.i32 = rk.VTYPE_PARTITION, letter.partition
        arguments[2].vtype, arguments[2].u.int = rk.VTYPE_MSGFLAGS, rk.MSG_COPY
        arguments[3].vtype, arguments[3].u.ptr = rk.VTYPE_OPAQUE, ticket
        memory(arguments[4], rk.VTYPE_KEY, letter.key)
        memory(arguments[5], rk.VTYPE_VALUE, letter.value)
        for slot, header in zip(arguments[6:], letter.headers, strict=True):
            slot.vtype = rk.VTYPE_HEADER
            slot.u.header.name = header.name.encode("utf-8", "surrogateescape")
            if header.value is not None:
                kept.append(buffer := c.create_string_buffer(header.value, len(header.value) + 1))
                slot.u.header.val, slot.u.header.size = c.addressof(buffer), len(header.value)
        error = rk.produceva(self._client, arguments, len(arguments))
        rk.raise_for_object(error, f"produce to {letter.topic}")

    def poll(self, wait_ms: int) -> list[int]:
        """See `Sink.poll`."""
        event = rk.queue_poll(self._queue, wait_ms)
        while event:
            try:
                self._serve(event)
            finally:
                rk.event_destroy(event)
            event = rk.queue_poll(self._queue, 0)
        done = []
        while self._outstanding and self._remaining[self._outstanding[0] % _TICKETS] == 0:
            done.append(self._outstanding.popleft())
            self._bytes.popleft()
        return done

    def _serve(self, event: int) -> None:
        kind = rk.event_type(event)
        if kind == rk.EVENT_DR:
            at = self._reports.ctypes.data
            while n := rk.event_message_array(event, at, _EVENT_RECORDS):
                error = native_loops.count_deliveries(self._reports, n, self._remaining)
                rk.raise_for(error, "deliver")
        elif kind == rk.EVENT_ERROR:
            code, text = rk.event_error(event), rk.event_error_string(event).decode()
            if code == rk.ERR_FATAL:
                raise BrokerUnavailable(f"producer: {rk.fatal(self._client) or text}")
            log_line(4, rk.err2str(code).decode(), text)

    def close(self, timeout_ms: int) -> None:
        """See `Sink.close`."""
        if not self._client:
            return
        for _ in range(max(1, timeout_ms)):
            if not rk.outq_len(self._client):
                break
            event = rk.queue_poll(self._queue, 1)
            if event:
                rk.event_destroy(event)
        # What is still queued belongs to no committed offset: it is read and sent again.
        rk.purge(self._client, _PURGE_QUEUE_AND_FLIGHT)
        for topic in self._topics.values():
            rk.topic_destroy(topic)
        rk.queue_destroy(self._queue)
        rk.destroy(self._client)
        self._client = 0
