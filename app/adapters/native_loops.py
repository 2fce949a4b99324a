"""Numba loops over librdkafka's message structs: records in to columns, columns out to structs.

They hold no GIL and make no Python object a record. Callers give addresses that librdkafka owns and
arrays that are large enough; nothing here checks either (`native_source`, `native_sink` do).
"""

from typing import Any

import numba as nb
import numpy as np

from app.adapters.librdkafka import (
    MESSAGE,
    MSG_COPY,
    TAGGED,
    VTYPE_HEADERS,
    VTYPE_KEY,
    VTYPE_MSGFLAGS,
    VTYPE_OPAQUE,
    VTYPE_PARTITION,
    VTYPE_RKT,
    VTYPE_VALUE,
    header_add,
    header_get_all,
    headers_destroy,
    headers_new,
    message_destroy,
    message_headers,
    message_timestamp,
    pointer,
    produceva,
)

_INT32_BYTES = 4
LETTER_ARGUMENTS = 7
_carray: Any = nb.carray  # type: ignore[attr-defined]  # Numba's types leave it out


@nb.njit(nogil=True, cache=True, inline="always")
def _message(address: Any) -> Any:
    return _carray(pointer(address), (1,), MESSAGE)[0]


@nb.njit(nogil=True, cache=True, inline="always")
def _copy(source: Any, length: Any, target: Any, at: Any) -> Any:
    data = _carray(pointer(source), (length,), np.uint8)
    for j in range(length):
        target[at + j] = data[j]
    return at + length


@nb.njit(nogil=True, cache=True)
def _next_header(headers: Any, i: Any, found: Any) -> Any:
    """Name, value and size of the i-th header into found[0:3]; the name's length, or -1."""
    at = found.ctypes.data
    if header_get_all(headers, np.uintp(i), at, at + 8, at + 16) != 0:
        return -1
    name = _carray(pointer(found[0]), (1 << 30,), np.uint8)
    length = 0
    while name[length] != 0:
        length += 1
    return length


@nb.njit(nogil=True, cache=True, inline="always")
def _put_int32(target: Any, at: Any, value: Any) -> Any:
    for j in range(4):
        target[at + j] = np.uint8((value >> (8 * j)) & 0xFF)
    return at + 4


@nb.njit(nogil=True, cache=True)
def _header_bytes(headers: Any, found: Any) -> Any:
    total, i = 0, 0
    while True:
        length = _next_header(headers, i, found)
        if length < 0:
            return total
        total += 2 * _INT32_BYTES + length
        if found[1] != 0:
            total += np.int64(found[2])
        i += 1


@nb.njit(nogil=True, cache=True)
def _copy_headers(headers: Any, found: Any, target: Any, at: Any) -> Any:
    i = 0
    while True:
        length = _next_header(headers, i, found)
        if length < 0:
            return at
        at = _copy(found[0], length, target, _put_int32(target, at, length))
        if found[1] == 0:
            at = _put_int32(target, at, -1)
        else:
            size = np.int64(found[2])
            at = _copy(found[1], size, target, _put_int32(target, at, size))
        i += 1


@nb.njit(nogil=True, cache=True)
def weigh(addresses: Any, first: Any, n: Any) -> Any:
    """Bytes of keys, values and headers of messages first..n-1, and of the largest of them."""
    found = np.zeros(3, np.uint64)
    total = largest = np.int64(0)
    for i in range(first, n):
        m = _message(addresses[i])
        size = np.int64(m.len) + np.int64(m.key_len)
        if m.err == 0 and message_headers(addresses[i], found.ctypes.data) == 0:
            size += _header_bytes(found[0], found)
        total += size
        largest = max(largest, size)
    return total, largest


@nb.njit(nogil=True, cache=True)
def measure(addresses: Any, n: Any, length: Any, headers: Any, good: Any) -> Any:
    """Lengths of key, value and packed headers of n messages into length (3, n), -1 for null.

    `headers` gets each message's header list or 0; `good` the indexes of messages without an error.
    Returns their count.
    """
    found = np.zeros(3, np.uint64)
    k = 0
    for i in range(n):
        m = _message(addresses[i])
        if m.err != 0:
            continue
        good[k] = i
        length[0, k] = -1 if m.key == 0 else np.int32(m.key_len)
        length[1, k] = -1 if m.payload == 0 else np.int32(m.len)
        length[2, k] = 0
        headers[k] = 0
        if message_headers(addresses[i], found.ctypes.data) == 0:
            headers[k] = found[0]
            length[2, k] = np.int32(_header_bytes(headers[k], found))
        k += 1
    return k


@nb.njit(nogil=True, cache=True)
def errors(addresses: Any, n: Any) -> Any:
    """Indexes of messages with an error, int64 (k,)."""
    found, k = np.empty(n, np.int64), 0
    for i in range(n):
        if _message(addresses[i]).err != 0:
            found[k] = i
            k += 1
    return found[:k]


@nb.njit(nogil=True, cache=True)
def drain(addresses: Any, good: Any, k: Any,
          headers: Any, length: Any, start: Any, data: Any,
          partition: Any, offset: Any, timestamp: Any, timestamp_type: Any,
          rkt: Any) -> None:  # fmt: skip
    """Copy k messages into columns. `data` holds all keys, then all values, then all headers."""
    found = np.zeros(3, np.uint64)
    kind = np.zeros(1, np.int32)
    for i in range(k):
        address = addresses[good[i]]
        m = _message(address)
        if length[0, i] > 0:
            _copy(m.key, length[0, i], data, start[0, i])
        if length[1, i] > 0:
            _copy(m.payload, length[1, i], data, start[1, i])
        if length[2, i] > 0:
            _copy_headers(headers[i], found, data, start[2, i])
        partition[i], offset[i], rkt[i] = m.partition, m.offset, m.rkt
        timestamp[i] = message_timestamp(address, kind.ctypes.data)
        timestamp_type[i] = kind[0]


@nb.njit(nogil=True, cache=True)
def release(addresses: Any, n: Any) -> None:
    """Give n messages back to librdkafka."""
    for i in range(n):
        message_destroy(addresses[i])


@nb.njit(nogil=True, cache=True)
def fill(structs: Any, partition: Any,
         keys: Any, key_start: Any, key_length: Any,
         values: Any, value_start: Any, value_length: Any,
         ticket: Any) -> None:  # fmt: skip
    """Write one struct for produce_batch a record; keys and values are buffers' addresses."""
    for i in range(partition.shape[0]):
        m = structs[i]
        m.err = 0
        m.rkt = 0
        m.partition = partition[i]
        m.payload = 0 if value_length[i] < 0 else np.uint64(values + value_start[i])
        m.len = np.uint64(max(value_length[i], 0))
        m.key = 0 if key_length[i] < 0 else np.uint64(keys + key_start[i])
        m.key_len = np.uint64(max(key_length[i], 0))
        m.offset = 0
        m.private = ticket


@nb.njit(nogil=True, cache=True)
def send_letters(client: Any, rkt: Any, arguments: Any, partition: Any,
                 keys: Any, key_start: Any, key_length: Any,
                 values: Any, value_start: Any, value_length: Any,
                 headers: Any, header_start: Any, header_length: Any,
                 ticket: Any) -> Any:  # fmt: skip
    """Produce each letter with its packed headers; the first rd_kafka_error_t*, else 0.

    keys, values and headers are buffers' addresses; `arguments` is room for LETTER_ARGUMENTS.
    """
    error = np.uint64(0)
    _tag(arguments[0], VTYPE_RKT, rkt, 0)
    _tag(arguments[1], VTYPE_MSGFLAGS, MSG_COPY, 0)
    _tag(arguments[2], VTYPE_OPAQUE, ticket, 0)
    for i in range(partition.shape[0]):
        if error == 0:
            packed = _new_headers(headers + header_start[i], header_length[i])
            _tag(arguments[3], VTYPE_PARTITION, partition[i], 0)
            _tag_bytes(arguments[4], VTYPE_KEY, keys + key_start[i], key_length[i])
            _tag_bytes(arguments[5], VTYPE_VALUE, values + value_start[i], value_length[i])
            _tag(arguments[6], VTYPE_HEADERS, packed, 0)
            error = produceva(client, arguments.ctypes.data, LETTER_ARGUMENTS)
            if error != 0:
                headers_destroy(packed)  # it is librdkafka's only if the record was taken
    return error


@nb.njit(nogil=True, cache=True, inline="always")
def _tag(argument: Any, kind: Any, value: Any, size: Any) -> None:
    argument.vtype, argument.value, argument.size = kind, value, size


@nb.njit(nogil=True, cache=True, inline="always")
def _tag_bytes(argument: Any, kind: Any, address: Any, length: Any) -> None:
    _tag(argument, kind, 0 if length < 0 else np.uint64(address), max(length, 0))


@nb.njit(nogil=True, cache=True)
def _new_headers(address: Any, size: Any) -> Any:
    """A rd_kafka_headers_t* of headers packed by `records.pack_headers`."""
    made, at = headers_new(np.uintp(8)), np.int64(0)
    data = _carray(pointer(np.uintp(address)), (1 << 30,), np.uint8)
    while at < size:
        name, length = at + _INT32_BYTES, _get_int32(data, at)
        value = name + length + _INT32_BYTES
        value_length = _get_int32(data, name + length)
        where = np.uintp(0) if value_length < 0 else np.uintp(address + value)
        header_add(made, np.uintp(address + name), length, where, max(value_length, 0))
        at = value + max(value_length, 0)
    return made


@nb.njit(nogil=True, cache=True, inline="always")
def _get_int32(data: Any, at: Any) -> Any:
    number = np.int64(0)
    for j in range(_INT32_BYTES):
        number |= np.int64(data[at + j]) << (8 * j)
    return number - ((number >> 31) << 32)


@nb.njit(nogil=True, cache=True)
def count_deliveries(addresses: Any, n: Any, remaining: Any) -> Any:
    """Take each delivered record off its ticket's count; the first delivery error, else 0."""
    error = 0
    mask = np.uint64(remaining.shape[0] - 1)
    for i in range(n):
        m = _message(addresses[i])
        if m.err != 0 and error == 0:
            error = m.err
        remaining[m.private & mask] -= 1
    return error


def compile_loops() -> None:
    """Compile every loop, or load it from the cache on disk, by running it over nothing."""
    none = np.zeros(0, np.uint64)
    lengths, starts = np.zeros((3, 0), np.int32), np.zeros((3, 0), np.int64)
    data, kinds = np.zeros(0, np.uint8), np.zeros(0, np.int8)
    rows = np.zeros(0, np.int64)
    weigh(none, 0, 0)
    errors(none, 0)
    measure(none, 0, lengths, none, rows)
    drain(none, rows, 0, none, lengths, starts, data, lengths[0], rows, rows, kinds, none)
    release(none, 0)
    fill(np.zeros(0, MESSAGE), lengths[0], 0, rows, lengths[0], 0, rows, lengths[0], 1)
    arguments = np.zeros(LETTER_ARGUMENTS, TAGGED)
    send_letters(
        1,
        1,
        arguments,
        lengths[0],
        1,
        rows,
        lengths[0],
        1,
        rows,
        lengths[0],
        1,
        rows,
        lengths[0],
        1,
    )
    count_deliveries(none, 0, np.zeros(1, np.int64))
