"""Stage 1, decode: the bytes of a micro-batch become columns.

In: a `RecordBatch`, the known writer schemas, limits. Out: `Decoded`, in which every record is a
row of `Transactions` or one `Reject`; if registry ids turn up that `Writers` has not heard of, only
their set. Never raises on data, does no I/O, reads no clock. `decode_twin` is the same stage in
plain Python, and reads the records whose schema the loop does not cover.

All records of a batch go through one Numba loop without the GIL. It interprets the plan that
`avro_plan` compiled for the record's writer, checks every bound before it reads, and validates.
Text is not copied: the string columns point into the records' buffer.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba as nb
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from app.avro_plan import SLOTS
from app.currencies import TABLE
from app.decode_twin import (
    AMOUNT_MINOR_MAX,
    APPEND_TIME_MS_MAX,
    COLUMNS,
    EVENT_TIME_MIN_US,
    FUTURE_US_MAX,
    ID_BYTES_MAX,
    Decoded,
    Limits,
    fill_in,
)
from app.records import STRING_FIELDS, Int8s, Ragged, RecordBatch, Rejects, Transactions
from app.writers import Writers

__all__ = ["Decoded", "Limits", "Writers", "decode"]

# What the loop knows of other files stands here as numbers, and a test compares: Numba's cache on
# disk looks at the date of this file only and would not see a constant change elsewhere.
LONG, INT, STRING, BYTES, UNION, ENUM, INDEX, BLOCK, NEXT = range(9)
NULL, CHANNEL, FIXED, BOOLEAN, REJECT, END = range(9, 15)
CONFLUENT, SINGLE_OBJECT = range(2)
UNKNOWN_BASE, REFUSED_BASE = -1, -4
EVENT_TIME, AMOUNT, CHANNEL_SLOT, FIRST_STRING = range(4)
TRANSACTION_ID, CUSTOMER_ID, TERMINAL_ID, CURRENCY, CATEGORY, COUNTRY, DEVICE_ID = range(3, 17, 2)
NULL_VALUE, EMPTY_VALUE, VALUE_TOO_LARGE, HEADERS_TOO_LARGE, BAD_MAGIC, UNKNOWN_SCHEMA = range(6)
TRUNCATED, TRAILING_BYTES, BAD_LENGTH, BAD_VARINT, BAD_BRANCH, BAD_BOOLEAN = range(6, 12)
BAD_UTF8, BAD_ID, BAD_KEY, BAD_AMOUNT, BAD_CURRENCY, BAD_TIME = range(12, 18)
REFUSED_SCHEMA = 19
ACCEPTED, SLOW, UNRESOLVED = -1, -2, -3
"""A verdict of the loop is one of these or a place in RejectCode; SLOW is a plan's base, too."""


_F = TypeVar("_F", bound=Callable[..., Any])


def decode(records: RecordBatch, writers: Writers, limits: Limits) -> Decoded:
    """Decode and validate a batch; never raises on data."""
    rows, verdicts = _allocate(records), np.empty(len(records), np.int8)
    count = _decode_rows(
        _parts(records.values),
        _parts(records.keys),
        _parts(records.headers),
        (records.partition, records.offset, records.timestamp_ms, records.timestamp_type),
        records.polled_us,
        writers.program,
        _bounds(limits),
        TABLE,
        np.empty(SLOTS, np.int64),
        _columns(rows),
        verdicts,
    )
    if count == len(records):
        return Decoded(rows, Rejects.of(()), frozenset())
    if unresolved := _unresolved(records, verdicts):
        return Decoded(_head(rows, 0), Rejects.of(()), unresolved)
    decoded = Decoded(_head(rows, count), _rejects(verdicts), frozenset())
    slow = np.flatnonzero(verdicts == SLOW)
    return fill_in(decoded, records, slow, writers, limits) if len(slow) else decoded


def _parts(column: Ragged) -> tuple[Any, Any, Any]:
    # Buffers come writable or not: one kind for all spares the loop a second compilation.
    data = column.data.view()
    data.flags.writeable = False
    return data, column.start, column.length


def _bounds(limits: Limits) -> tuple[int, ...]:
    """Limits as arguments: as constants of the loop they would stick in Numba's cache."""
    return (
        limits.value_bytes_max,
        limits.headers_max,
        limits.header_bytes_max,
        APPEND_TIME_MS_MAX,
        min(limits.future_us_max, FUTURE_US_MAX),
        ID_BYTES_MAX,
        AMOUNT_MINOR_MAX,
        EVENT_TIME_MIN_US,
    )


def _allocate(records: RecordBatch) -> Transactions:
    n = len(records)
    return Transactions(
        row=np.empty(n, np.int64),
        partition=np.empty(n, np.int32),
        offset=np.empty(n, np.int64),
        append_time_us=np.empty(n, np.int64),
        append_time_type=np.empty(n, np.int8),
        event_time_us=np.empty(n, np.int64),
        amount_minor=np.empty(n, np.int64),
        channel=np.empty(n, np.int8),
        text=records.values.data,
        text_start=np.empty((len(STRING_FIELDS), n), np.int64),
        text_length=np.empty((len(STRING_FIELDS), n), np.int32),
    )


def _columns(rows: Transactions) -> tuple[Any, ...]:
    return tuple(getattr(rows, name) for name in COLUMNS)


def _head(rows: Transactions, count: int) -> Transactions:
    """The first rows, every array contiguous."""
    head = (np.ascontiguousarray(each[..., :count]) for each in _columns(rows))
    return Transactions(text=rows.text, **dict(zip(COLUMNS, head, strict=True)))


def _rejects(verdicts: Int8s) -> Rejects:
    rows = np.flatnonzero(verdicts >= 0)
    return Rejects(rows, verdicts[rows])


def _unresolved(records: RecordBatch, verdicts: Int8s) -> frozenset[int]:
    rows = np.flatnonzero(verdicts == UNRESOLVED).tolist()
    heads = ((records.values[row] or b"")[1:5] for row in rows)
    return frozenset(int.from_bytes(head, "big") for head in heads)


def _compiled(function: _F) -> _F:
    """Compile a function of the loop.

    They allocate nothing, and _nrt=False says so: else Numba counts references of every array
    argument with atomic instructions at each call, which doubles the time of a record.
    """
    compile_: Any = nb.njit  # its types do not know _nrt
    compiled: _F = compile_(nogil=True, cache=True, _nrt=False)(function)
    return compiled


def _load_word(_typing: Any, data: Any, at: Any) -> Any:
    """Load eight bytes of an array as one number; the caller has checked that they are there."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        word = builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return nb.types.uint64(data, at), build


_word: Any = intrinsic(_load_word)


@_compiled
def _decode_rows(values: Any, keys: Any, headers: Any, stamps: Any, polled_us: Any,
                 program: Any, bounds: Any, currency_table: Any,
                 slots: Any, columns: Any, verdicts: Any) -> Any:  # fmt: skip
    """Decode and validate every record; how many rows of `columns` were filled."""
    data, value_start, value_length = values
    key_data, key_start, key_length = keys
    header_data, header_start, header_length = headers
    partition, offset, timestamp_ms, timestamp_type = stamps
    code = program.code
    value_bytes_max, headers_max, header_bytes_max, append_ms_max = bounds[:4]
    meaning = bounds[4:]
    row, out_partition, out_offset, append_time, append_type = columns[:5]
    event_time, amount, channel, text_start, text_length = columns[5:]
    count, last_framing, last_key, base = 0, -1, np.int64(0), np.int64(UNKNOWN_BASE)
    for i in range(len(verdicts)):
        at, length = value_start[i], np.int64(value_length[i])
        end = at + max(length, 0)
        framing, key, verdict = CONFLUENT, np.int64(0), _check_size(length, value_bytes_max)
        if verdict == ACCEPTED and header_length[i] > 0:
            verdict = _check_headers(
                header_data, header_start[i], header_length[i], headers_max, header_bytes_max
            )
        if verdict == ACCEPTED:
            framing, key, at, verdict = _framing(data, at, end)
        if verdict == ACCEPTED:
            if framing != last_framing or key != last_key:
                base = _base(program, framing, key)
                last_framing, last_key = framing, key
            if base >= 0:
                verdict = _interpret(data, at, end, code, base, slots)
            elif base == REFUSED_BASE:
                verdict = REFUSED_SCHEMA
            else:
                verdict = UNKNOWN_SCHEMA if base == UNKNOWN_BASE else base
        if verdict == ACCEPTED:
            append_us = polled_us
            if timestamp_type[i] != 0:
                append_us = 1000 * min(max(timestamp_ms[i], -append_ms_max), append_ms_max)
            verdict = _validate(data, slots, key_data, key_start[i], key_length[i],
                                append_us, meaning, currency_table)  # fmt: skip
            if verdict == ACCEPTED:
                row[count], append_time[count] = i, append_us
                out_partition[count], out_offset[count] = partition[i], offset[i]
                append_type[count], channel[count] = timestamp_type[i], slots[CHANNEL_SLOT]
                event_time[count], amount[count] = slots[EVENT_TIME], slots[AMOUNT]
                for k in range(len(text_start)):
                    text_start[k, count] = slots[FIRST_STRING + 2 * k]
                    text_length[k, count] = slots[FIRST_STRING + 2 * k + 1]
                count += 1
        verdicts[i] = verdict
    return count


@_compiled
def _check_size(length: Any, bytes_max: Any) -> Any:
    verdict = ACCEPTED
    if length <= 0:
        verdict = NULL_VALUE if length < 0 else EMPTY_VALUE
    elif length > bytes_max:
        verdict = VALUE_TOO_LARGE
    return verdict


@_compiled
def _check_headers(data: Any, start: Any, size: Any, headers_max: Any, bytes_max: Any) -> Any:
    """Walk headers packed by `records.pack_headers`: not too many, not too large, all there."""
    count, at = 0, np.int64(0)
    while size - at >= 8 and count <= headers_max:
        for _ in range(2):  # name and value, each behind its length
            at = at + 4 + max(0, _int32(data, start + at)) if size - at >= 4 else size + 1
        count += 1
    fits = at == size and count <= headers_max and size - 8 * count <= bytes_max
    return ACCEPTED if fits else HEADERS_TOO_LARGE


@_compiled
def _int32(data: Any, at: Any) -> Any:
    number = np.int64(0)
    for j in range(4):
        number |= np.int64(data[at + j]) << (8 * j)
    return number - ((number >> 31) << 32)


@_compiled
def _framing(data: Any, at: Any, end: Any) -> Any:
    """Framing, registry id or fingerprint, where the body begins, and a verdict."""
    framing, key, verdict = CONFLUENT, np.int64(0), BAD_MAGIC
    if data[at] == 0x00:
        verdict = ACCEPTED if end - at >= 5 else TRUNCATED
        if verdict == ACCEPTED:
            for j in range(1, 5):
                key = key << 8 | np.int64(data[at + j])
            key -= (key >> 31) << 32
            at += 5
    elif data[at] == 0xC3 and (end - at == 1 or data[at + 1] == 0x01):
        framing, verdict = SINGLE_OBJECT, ACCEPTED if end - at >= 10 else TRUNCATED
        if verdict == ACCEPTED:
            for j in range(9, 1, -1):
                key = key << 8 | np.int64(data[at + j])
            at += 10
    return framing, key, at, verdict


@_compiled
def _base(program: Any, framing: Any, key: Any) -> Any:
    """Where the plan of a registry id or fingerprint begins, or what else to do about it."""
    keys, bases = program.fingerprints, program.fingerprint_bases
    if framing == CONFLUENT:
        keys, bases = program.ids, program.id_bases
    base = np.int64(UNRESOLVED if framing == CONFLUENT and key >= 0 else UNKNOWN_BASE)
    at = np.searchsorted(keys, key)
    return bases[at] if at < len(keys) and keys[at] == key else base


@_compiled
def _number(data: Any, at: Any, end: Any) -> Any:
    """A zigzag varint in its shortest form; the number, what follows, and a verdict."""
    number, shift, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
    while byte >= np.uint64(0x80) and at < end and shift < np.uint64(70):
        byte = np.uint64(data[np.uint64(at)])  # unsigned: no test for an index from the end
        number |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
        at += 1
    verdict = ACCEPTED
    if byte >= np.uint64(0x80):
        verdict = BAD_VARINT if shift == np.uint64(70) else TRUNCATED
    elif shift > np.uint64(7) and (
        byte == np.uint64(0) or (shift == np.uint64(70) and byte > np.uint64(1))
    ):
        verdict = BAD_VARINT
    return np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1)), at, verdict


@_compiled
def _interpret(  # noqa: C901, PLR0912, PLR0915 -- one loop over all instructions
    data: Any, at: Any, end: Any, code: Any, base: Any, slots: Any
) -> Any:
    """Read one value by the plan at `base` into `slots`; ACCEPTED or the fault."""
    here, op, verdict = base + code[base], -1, ACCEPTED
    while op != END and verdict == ACCEPTED:
        op, a, b, then = code[here], code[here + 1], code[here + 2], code[here + 3]
        here, number = base + then, np.int64(0)
        if op <= BLOCK:
            number, at, verdict = _number(data, at, end)
        if verdict != ACCEPTED:
            pass
        elif op in (STRING, BYTES):
            if number < 0 or number > end - at:
                verdict = BAD_LENGTH
            elif op == STRING:
                slots[a], slots[a + 1] = at, number
                if not _is_ascii(data, at, number) and not _is_utf8(data, at, at + number):
                    verdict = BAD_UTF8
            at += number
        elif op <= INT:
            slots[a] = number
            if op == INT and number != np.int32(number):
                verdict = BAD_VARINT
        elif op <= INDEX:
            if number < 0 or number >= b:
                verdict = BAD_BRANCH
            elif op == UNION:
                here = base + code[base + a + number]
            elif op == ENUM:
                slots[CHANNEL_SLOT] = code[base + a + number]
                if slots[CHANNEL_SLOT] < 0:
                    verdict = BAD_BRANCH
        elif op == BLOCK:
            slots[a], slots[a + 1], at, verdict = _block(data, at, end, number)
            if number != 0:
                here = base + b
        elif op == NEXT:
            slots[a] -= 1
            if slots[a] > 0:
                here = base + b
            elif slots[a + 1] >= 0 and slots[a + 1] != at:
                verdict = BAD_LENGTH
        elif op == NULL:
            slots[a], slots[a + 1] = at, -1
        elif op == CHANNEL:
            slots[CHANNEL_SLOT] = a
        elif op == FIXED:
            verdict = ACCEPTED if a <= end - at else TRUNCATED
            at += a
        elif op == BOOLEAN:
            verdict = TRUNCATED
            if at < end:
                verdict = ACCEPTED if data[at] <= 1 else BAD_BOOLEAN
            at += 1
        elif op == REJECT:
            verdict = BAD_BRANCH
        elif at != end:
            verdict = TRAILING_BYTES
    return verdict


@_compiled
def _block(data: Any, at: Any, end: Any, count: Any) -> Any:
    """A block's items, where it says it ends (or -1), where they begin, and a verdict."""
    block_end, verdict = np.int64(-1), ACCEPTED
    if count < 0:
        size, at, verdict = _number(data, at, end)
        count, block_end = -count, at + size
        if verdict == ACCEPTED and (size < 0 or size > end - at):
            verdict = BAD_LENGTH
    # An item has a byte at least, and the least int64 stays negative when its sign is changed.
    if verdict == ACCEPTED and (count < 0 or count > end - at):
        verdict = BAD_LENGTH
    return count, block_end, at, verdict


@_compiled
def _is_ascii(data: Any, at: Any, size: Any) -> Any:
    seen = np.uint64(0)
    if size >= 8:
        last = at + size - 8
        while at < last:
            seen |= _word(data, at)
            at += 8
        seen |= _word(data, last)
    else:
        for j in range(size):
            seen |= np.uint64(data[at + j])
    return seen & np.uint64(0x8080808080808080) == np.uint64(0)


@_compiled
def _is_utf8(data: Any, at: Any, end: Any) -> Any:
    """Whether the bytes are UTF-8 by RFC 3629: shortest forms, no surrogates, up to U+10FFFF."""
    good = True
    while at < end and good:
        lead = data[at]
        at += 1
        if lead >= 0x80:
            more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
            # The first byte narrows the span of the second, but of no other.
            low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
            high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
            good = 0xC2 <= lead <= 0xF4 and end - at >= more and low <= data[at] <= high
            for j in range(1, more):
                good = good and data[at + j] & 0xC0 == 0x80
            at += more
    return good


@_compiled
def _validate(data: Any, slots: Any, keys: Any, key: Any, key_length: Any,
              append_us: Any, meaning: Any, currency_table: Any) -> Any:  # fmt: skip
    """Whether the row in `slots` makes sense; ACCEPTED or the fault."""
    future_us_max, id_bytes_max, amount_max, event_time_min_us = meaning
    good = _is_code(data, slots, CATEGORY, 4, 0x30, 0x39) and _is_code(
        data, slots, COUNTRY, 2, 0x41, 0x5A
    )
    for field in (TRANSACTION_ID, CUSTOMER_ID, TERMINAL_ID, DEVICE_ID):
        good = good and slots[field + 1] != 0 and slots[field + 1] <= id_bytes_max
        good = good and _is_plain(data, slots[field], slots[field + 1])
    customer, event_time = slots[CUSTOMER_ID], slots[EVENT_TIME]
    verdict = ACCEPTED
    if not good:
        verdict = BAD_ID
    elif slots[CUSTOMER_ID + 1] != key_length or not _equal(data, customer, keys, key, key_length):
        verdict = BAD_KEY
    elif slots[AMOUNT] < 0 or slots[AMOUNT] > amount_max:
        verdict = BAD_AMOUNT
    elif not _is_currency(data, slots, currency_table):
        verdict = BAD_CURRENCY
    elif event_time < event_time_min_us or event_time > append_us + future_us_max:
        verdict = BAD_TIME
    return verdict


@_compiled
def _is_plain(data: Any, at: Any, size: Any) -> Any:
    """Whether an identifier, which is UTF-8, has no control character and none for bidi text."""
    good, ascii_ = True, True
    for j in range(at, at + size):
        byte = data[j]
        good = good and byte >= 0x20 and byte != 0x7F
        ascii_ = ascii_ and byte < 0x80
    if good and not ascii_:
        for j in range(at, at + size - 1):
            pair = np.int64(data[j]) << 8 | np.int64(data[j + 1])
            good = good and not (0xC280 <= pair <= 0xC29F or pair == 0xD89C)
            if 0xE280 <= pair <= 0xE281:
                third = pair << 8 | np.int64(data[j + 2])
                good = good and not (
                    0xE2808E <= third <= 0xE2808F
                    or 0xE280AA <= third <= 0xE280AE
                    or 0xE281A6 <= third <= 0xE281A9
                )
    return good


@_compiled
def _is_code(data: Any, slots: Any, field: Any, size: Any, low: Any, high: Any) -> Any:
    """Whether an optional string has exactly `size` bytes from low to high."""
    start, length = slots[field], slots[field + 1]
    good = length == size
    if good:
        for j in range(size):
            good = good and low <= data[start + j] <= high
    return good or length < 0


@_compiled
def _is_currency(data: Any, slots: Any, table: Any) -> Any:
    place, good = np.int64(0), slots[CURRENCY + 1] == 3
    if good:
        for j in range(3):
            letter = np.int64(data[slots[CURRENCY] + j]) - 0x41
            good = good and 0 <= letter < 26
            place = 26 * place + letter
    return good and table[place]


@_compiled
def _equal(data: Any, at: Any, other: Any, there: Any, size: Any) -> Any:
    differs = np.uint64(0)
    if size >= 8:
        last = at + size - 8
        while at < last:
            differs |= _word(data, at) ^ _word(other, there)
            at += 8
            there += 8
        there += last - at
        differs |= _word(data, last) ^ _word(other, there)
    else:
        for j in range(size):
            differs |= np.uint64(data[at + j] ^ other[there + j])
    return differs == np.uint64(0)
