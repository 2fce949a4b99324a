"""Dead letters of a micro-batch, in columns: the record as received, and the cause in headers.

In: records and their rejects. Out: `Letters` that share the records' keys and values. What is the
same in many letters (code, message, topic) is packed once; a Numba loop puts it behind each
record's own headers. Few letters need Python: those of records that carry headers of ours already,
and those too long for the dead-letter topic. Pure.
"""

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np

from app.errors import REJECT_MESSAGES
from app.records import (
    Header,
    Letter,
    Letters,
    Ragged,
    RecordBatch,
    Reject,
    Rejects,
    pack_headers,
    unpack_headers,
)

ENVELOPE = "plain"
OURS = "riskwire."
_ERROR = OURS + "error."
_FIRST_SEEN = _ERROR + "first_seen"
_PARTITION, _OFFSET = _ERROR + "source.partition", _ERROR + "source.offset"
_DIGITS = 20
OURS_LENGTHS = 8 * 8
"""What is packed of our eight headers only to say how long names and values are."""
ODD = -1
"""Instead of a letter's size: it is not for the loop."""


def letters_of(
    records: RecordBatch, rejects: Sequence[Reject], topic: str, bytes_max: int
) -> Letters:
    """One letter for each reject, to the partition of its record; longer ones without the record.

    A letter that was replayed and is rejected again keeps the time of its first rejection.
    """
    its = Rejects.of(rejects)
    rows, (_, first, kind) = its.row, np.unique(its.code, return_index=True, return_inverse=True)
    causes = [pack_headers(_causes(records.topic, its[i])) for i in first.tolist()]
    before, after = Ragged.of(causes), _bytes(pack_headers(_ends(records.polled_us)))
    partition, headers = records.partition[rows], records.headers.take(rows)
    keys, values = records.keys.take(rows), records.values.take(rows)
    room = np.maximum(headers.length, 0).astype(np.int64)
    room += max(map(len, causes), default=0) + len(after) + _PLACE_BYTES
    start = np.cumsum(room) - room
    out, length = np.empty(int(room.sum()), np.uint8), np.empty(len(rows), np.int32)
    _pack(
        kind, partition, records.offset[rows],
        _parts(headers), keys.length, values.length, _parts(before), after,
        *_PLACE_NAMES, _bytes(OURS.encode()), bytes_max, out, start, length,
    )  # fmt: skip
    letters = Letters(topic, partition, keys, values, Ragged(_frozen(out), start, length))
    odd: list[int] = np.flatnonzero(length == ODD).tolist()
    return _with(letters, odd, [_letter(records, its[i], topic, bytes_max) for i in odd])


def _causes(source: str, reject: Reject) -> list[Header]:
    texts = {
        "code": reject.code,
        "stage": reject.stage,
        "message": REJECT_MESSAGES[reject.code],
        "source.topic": source,
    }
    return [Header(_ERROR + name, text.encode()) for name, text in texts.items()]


def _ends(first_seen_us: int) -> list[Header]:
    return [
        Header(_FIRST_SEEN, str(first_seen_us).encode()),
        Header(OURS + "envelope", ENVELOPE.encode()),
    ]


def _letter(records: RecordBatch, reject: Reject, topic: str, bytes_max: int) -> Letter:
    """The same letter without the loop."""
    row = reject.row
    original = unpack_headers(records.headers[row] or b"")
    seen = next((h.value for h in original if h.name == _FIRST_SEEN), None)
    first, envelope = _ends(records.polled_us)
    ours = (
        *_causes(records.topic, reject),
        Header(_PARTITION, str(records.partition[row]).encode()),
        Header(_OFFSET, str(records.offset[row]).encode()),
        Header(_FIRST_SEEN, seen or first.value),
        envelope,
    )
    names = {header.name for header in ours}
    headers = (*(header for header in original if header.name not in names), *ours)
    partition = int(records.partition[row])
    letter = Letter(topic, partition, records.keys[row], records.values[row], headers)
    if (size := letter.nbytes) > bytes_max:
        # Only a compressed batch brings more than a broker's limit. The record is still counted
        # out, and can be read at its source position.
        omitted = Header(_ERROR + "omitted", f"key, value and headers: {size} bytes".encode())
        return Letter(topic, partition, None, None, (*ours, omitted))
    return letter


def _with(letters: Letters, odd: list[int], each: Sequence[Letter]) -> Letters:
    """Put the letters that Python made in their places."""
    if not each:
        return letters
    headers = Ragged.of([pack_headers(letter.headers) for letter in each])
    packed, keys, values = letters.headers, letters.keys, letters.values
    packed.start[odd], packed.length[odd] = len(packed.data) + headers.start, headers.length
    for column, name in ((keys, "key"), (values, "value")):
        rows = [i for i, letter in zip(odd, each, strict=True) if getattr(letter, name) is None]
        column.length[rows] = -1
    data = _frozen(np.concatenate([packed.data, headers.data]))
    headers = Ragged(data, packed.start, packed.length)
    return Letters(letters.topic, letters.partition, keys, values, headers)


def _parts(column: Ragged) -> tuple[Any, Any, Any]:
    return _frozen(column.data.view()), column.start, column.length


def _frozen(data: Any) -> Any:
    # Buffers come writable or not: one kind for all spares the loop a second compilation.
    data.flags.writeable = False
    return data


def _bytes(raw: bytes) -> Any:
    return np.frombuffer(raw, np.uint8)


def _name(text: str) -> Any:
    """A packed header as far as its value's length."""
    return _bytes(len(text).to_bytes(4, "little") + text.encode())


_PLACE_NAMES = (_name(_PARTITION), _name(_OFFSET))
_PLACE_BYTES = sum(map(len, _PLACE_NAMES)) + 2 * (4 + _DIGITS)


@nb.njit(nogil=True, cache=True)
def _pack(kind: Any, partition: Any, offset: Any, headers: Any, key_length: Any,
          value_length: Any, before: Any, after: Any, partition_name: Any, offset_name: Any,
          ours: Any, bytes_max: Any, out: Any, start: Any, length: Any) -> None:  # fmt: skip
    """Pack the headers of each letter; length ODD where it is not as most are."""
    data, data_start, data_length = headers
    causes, causes_start, causes_length = before
    for i in range(len(kind)):
        at = start[i]
        own = max(0, np.int64(data_length[i]))
        lengths = _lengths(data, data_start[i], own, ours)
        at = _put(out, at, data, data_start[i], own)
        at = _put(out, at, causes, causes_start[kind[i]], np.int64(causes_length[kind[i]]))
        at = _put_number(out, _put(out, at, partition_name, 0, len(partition_name)), partition[i])
        at = _put_number(out, _put(out, at, offset_name, 0, len(offset_name)), offset[i])
        at = _put(out, at, after, 0, len(after))
        size = at - start[i] - lengths + max(0, key_length[i]) + max(0, value_length[i])
        good = lengths >= 0 and size - OURS_LENGTHS <= bytes_max
        length[i] = at - start[i] if good else ODD


@nb.njit(nogil=True, cache=True)
def _lengths(data: Any, start: Any, size: Any, ours: Any) -> Any:
    """Bytes of packed headers that only say lengths; -1 if one is ours, or they are damaged."""
    at: Any = np.int64(0)
    count = 0
    while at >= 0 and size - at >= 8:
        length = _int32(data, start + at)
        same = length >= len(ours) and length <= size - at - 8
        for j in range(len(ours) if same else 0):
            same = same and data[start + at + 4 + j] == ours[j]
        fits = 0 <= length <= size - at - 8 and not same
        if fits:
            at += 8 + length
            at += max(0, _int32(data, start + at - 4))
        else:
            at = -1
        count += 1
    return 8 * count if at == size else -1


@nb.njit(nogil=True, cache=True)
def _int32(data: Any, at: Any) -> Any:
    number = np.int64(0)
    for j in range(4):
        number |= np.int64(data[at + j]) << (8 * j)
    return number - ((number >> 31) << 32)


@nb.njit(nogil=True, cache=True, inline="always")
def _put(out: Any, at: Any, data: Any, start: Any, length: Any) -> Any:
    for j in range(length):
        out[at + j] = data[start + j]
    return at + length


@nb.njit(nogil=True, cache=True)
def _put_number(out: Any, at: Any, number: Any) -> Any:
    """The length of a number's decimal digits as int32, and these."""
    rest, digits = number, 1
    while rest >= 10:
        rest //= 10
        digits += 1
    for j in range(4):
        out[at + j] = np.uint8((digits >> (8 * j)) & 0xFF)
    rest = number
    for j in range(digits):
        out[at + 3 + digits - j] = np.uint8(0x30 + rest % 10)
        rest //= 10
    return at + 4 + digits
