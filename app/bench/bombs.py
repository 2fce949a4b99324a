"""Named hostile records: what each is, and the code with which it must come back.

`BOMBS` for the transactions topic, of values, keys and headers; `SCHEMAS` the writer schemas that
some of them name by registry id, good and refused ones. The tests send all of them through the
decoders and through a worker; `riskwire bench hostile` says what each costs. Pure.
"""

import gzip
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import schemas
from app.encode import encode_long, encode_string
from app.errors import RejectCode as C
from app.pipeline import know
from app.writers import Writers

KEY = b"customer-1"
SMALL_BYTES = 16_384
"""Up to here a rejected record may cost no more than a millisecond."""
MANY_BYTES = 1_000_000


class Bomb(NamedTuple):
    """A hostile record; header values of None are null."""

    code: C
    value: bytes | None
    key: bytes | None = KEY
    headers: Sequence[tuple[str, bytes | None]] = ()


_READER = json.loads(schemas.load("transaction").text)
_HEADER = schemas.load("transaction").single_object_header
_GOOD = {
    "transaction_id": encode_string("bomb"),
    "customer_id": encode_string(KEY.decode()),
    "terminal_id": encode_string("terminal-1"),
    "event_time": encode_long(1_700_000_000_000_000),
    "amount_minor": encode_long(1250),
    "currency": encode_string("EUR"),
    "channel": encode_long(1),
    "merchant_category": b"\0",
    "country": b"\0",
    "device_id": b"\0",
}


def value(**raw: bytes) -> bytes:
    """A transaction by the bundled schema; `raw` puts other bytes in a field's place."""
    return _HEADER + b"".join((_GOOD | raw).values())


def by(schema_id: int, rest: bytes = b"", **raw: bytes) -> bytes:
    """One framed by a registry id, with what that schema says more behind it."""
    return b"\0" + schema_id.to_bytes(4, "big", signed=True) + value(**raw)[10:] + rest


def _with(name: str, kind: Any) -> str:
    """The bundled schema with a field more."""
    return json.dumps({**_READER, "fields": [*_READER["fields"], {"name": name, "type": kind}]})


def _record(name: str, *kinds: Any) -> dict[str, Any]:
    fields = [{"name": f"f{k}", "type": kind} for k, kind in enumerate(kinds)]
    return {"type": "record", "name": name, "fields": fields}


def _array(items: Any, depth: int = 1) -> Any:
    for _ in range(depth):
        items = {"type": "array", "items": items}
    return items


def _bomb() -> Any:
    """Seven records, each of sixteen of the one before: 16^7 types by seven definitions."""
    inner = _record("R0", *["int"] * 16)
    for k in range(1, 7):
        inner = _record(f"R{k}", inner, *[f"riskwire.R{k - 1}"] * 15)
    return inner


INTS, TEXTS, MAPS, DEEP, FLAG, SMALL, UNION = range(1, 8)
"""Ids of writer schemas that are good; each adds a field to the bundled one."""
UNKNOWN = 99
"""An id that the registry does not know."""
REFUSED: dict[str, tuple[int, str, bytes]] = {
    "recursive schema": (101, _with("x", _record("N", ["null", "riskwire.N"])), b"\2" * 5000),
    "array of null": (102, _with("x", _array("null")), encode_long(2 * 10**9)),
    "array of empty records": (103, _with("x", _array(_record("E"))), encode_long(2 * 10**7)),
    "union 5,000 deep": (104, "[" * 5000 + '"int"' + "]" * 5000, bytes(5000)),
    "16^7 types": (105, _with("x", _bomb()), bytes(SMALL_BYTES - 100)),
    "65 fields": (106, _with("x", _record("Wide", *["int"] * 65)), bytes(65)),
    "a field for the CVV": (107, _with("cvv", "string"), encode_string("123")),
    "decimal of 100 KB": (
        108,
        _with("x", {"type": "fixed", "name": "D", "size": 100_000, "logicalType": "decimal",
                    "precision": 200_000}),
        bytes(10_000),
    ),
    "no JSON": (109, "{", b""),
    "another topic's schema": (110, schemas.load("risk_score").text, b""),
    "schema of a megabyte": (111, _with("x", "int") + " " * MANY_BYTES, b"\0"),
    "milliseconds for microseconds": (
        112,
        _with("x", "int").replace("timestamp-micros", "timestamp-millis"),
        b"\0",
    ),
    "map of null": (113, _with("x", {"type": "map", "values": "null"}), encode_long(10**9)),
}  # fmt: skip
SCHEMAS: dict[int, str] = {
    INTS: _with("x", _array("int")),
    TEXTS: _with("x", _array("string")),
    MAPS: _with("x", {"type": "map", "values": ["null", "long"]}),
    DEEP: _with("x", _array("int", 7)),
    FLAG: _with("x", "boolean"),
    SMALL: _with("x", "int"),
    UNION: _with("x", _array(["null", "string", "double", {"type": "map", "values": "bytes"}])),
    **{schema_id: text for schema_id, text, _ in REFUSED.values()},
}
"""Texts by id; the ids above 100 are refused."""

_ROOM = SMALL_BYTES - 200


def _headers(count: int, size: int = 0) -> list[tuple[str, bytes | None]]:
    return [("n", bytes(size))] * count


BOMBS: dict[str, Bomb] = {
    "null value": Bomb(C.NULL_VALUE, None),
    "empty value": Bomb(C.EMPTY_VALUE, b""),
    "four bytes": Bomb(C.TRUNCATED, bytes(4)),
    "JSON": Bomb(C.BAD_MAGIC, b'{"amount": NaN}'),
    "a pickle that runs code": Bomb(C.BAD_MAGIC, b"\x80\x04cos\nsystem\n(S'id'\ntR."),
    "a gzip of 16 MB": Bomb(C.BAD_MAGIC, gzip.compress(bytes(16 << 20), mtime=0)[:SMALL_BYTES]),
    "value of a megabyte": Bomb(C.VALUE_TOO_LARGE, value() + bytes(MANY_BYTES - 200)),
    "unknown fingerprint": Bomb(C.UNKNOWN_SCHEMA, b"\xc3\x01" + bytes(8) + value()[10:]),
    "unknown schema id": Bomb(C.UNKNOWN_SCHEMA, by(UNKNOWN)),
    "negative schema id": Bomb(C.UNKNOWN_SCHEMA, by(-1)),
    "string of 2^40 bytes": Bomb(C.BAD_LENGTH, value(terminal_id=encode_long(2**40))),
    "string of -1 bytes": Bomb(C.BAD_LENGTH, value(terminal_id=encode_long(-1))),
    "string of -2^63 bytes": Bomb(C.BAD_LENGTH, value(terminal_id=encode_long(-(2**63)))),
    "varint of 16 KB": Bomb(C.BAD_VARINT, value(amount_minor=b"\x80" * _ROOM + b"\1")),
    "varint beyond 64 bits": Bomb(C.BAD_VARINT, value(amount_minor=b"\xff" * 9 + b"\x7f")),
    "varint with needless bytes": Bomb(C.BAD_VARINT, value(amount_minor=b"\x82\x80\0")),
    "int beyond 32 bits": Bomb(C.BAD_VARINT, by(SMALL, encode_long(2**40))),
    "union branch -1": Bomb(C.BAD_BRANCH, value(country=b"\1")),
    "enum symbol -1": Bomb(C.BAD_BRANCH, value(channel=b"\1")),
    "enum symbol 2^62": Bomb(C.BAD_BRANCH, value(channel=encode_long(2**62))),
    "boolean 7": Bomb(C.BAD_BOOLEAN, by(FLAG, b"\7")),
    "array count 2^40": Bomb(C.BAD_LENGTH, by(INTS, encode_long(2**40))),
    "array count -2^63": Bomb(C.BAD_LENGTH, by(INTS, encode_long(-(2**63)) + b"\2\2\0")),
    "16,000 items and no end": Bomb(C.TRUNCATED, by(INTS, encode_long(_ROOM) + b"\2" * _ROOM)),
    "8,000 blocks of an item": Bomb(C.TRUNCATED, by(INTS, b"\2\2" * (_ROOM // 2))),
    "blocks that lie about their size": Bomb(
        C.BAD_LENGTH, by(INTS, b"\1\2\2" * (_ROOM // 3 - 1) + b"\1\4\2\0")
    ),
    "8,000 empty strings, then no UTF-8": Bomb(
        C.BAD_UTF8, by(TEXTS, encode_long(8001) + bytes(8000) + b"\2\xff\0")
    ),
    "map of 5,000 keys, the last no UTF-8": Bomb(
        C.BAD_UTF8, by(MAPS, encode_long(5001) + b"\2k\0" * 5000 + b"\2\xff\0\0")
    ),
    "15,000 bytes, 7 arrays deep": Bomb(
        C.TRUNCATED, by(DEEP, (b"\2" * 7 + b"\2" + b"\0" * 6) * 1100)
    ),
    "10,000 branches, the last -1": Bomb(
        C.BAD_BRANCH, by(UNION, encode_long(10_001) + bytes(10_000) + b"\1\0")
    ),
    "16 KB behind the value": Bomb(C.TRAILING_BYTES, value() + bytes(_ROOM)),
    "16 KB of text, the last byte wrong": Bomb(
        C.BAD_UTF8,
        value(terminal_id=encode_long(_ROOM) + "é".encode() * (_ROOM // 2 - 1) + b"a\xff"),
    ),
    "lone surrogate": Bomb(C.BAD_UTF8, value(terminal_id=b"\6\xed\xa0\x80")),
    "overlong slash": Bomb(C.BAD_UTF8, value(terminal_id=b"\4\xc0\xaf")),
    "identifier of 16 KB": Bomb(C.BAD_ID, value(device_id=b"\2" + encode_string("d" * _ROOM))),
    "identifier with a NUL": Bomb(C.BAD_ID, value(terminal_id=encode_string("a\0b"))),
    "identifier that turns text round": Bomb(
        C.BAD_ID, value(terminal_id=encode_string("a\u202eb"))
    ),
    "identifier that breaks a log line": Bomb(
        C.BAD_ID, value(transaction_id=encode_string("a\r\nb"))
    ),
    "empty identifier": Bomb(C.BAD_ID, value(transaction_id=b"\0")),
    "key of another": Bomb(C.BAD_KEY, value(), b"customer-2"),
    "null key": Bomb(C.BAD_KEY, value(), None),
    "key of 16 KB": Bomb(C.BAD_KEY, value(), b"k" * _ROOM),
    "10,000 headers": Bomb(C.HEADERS_TOO_LARGE, value(), KEY, _headers(10_000)),
    "33 headers of one name": Bomb(C.HEADERS_TOO_LARGE, value(), KEY, _headers(33)),
    "header of a megabyte": Bomb(C.HEADERS_TOO_LARGE, value(), KEY, _headers(1, 900_000)),
    "header name of 10 KB": Bomb(C.HEADERS_TOO_LARGE, value(), KEY, [("n" * 10_000, None)]),
    "amount -1": Bomb(C.BAD_AMOUNT, value(amount_minor=b"\1")),
    "amount -2^63": Bomb(C.BAD_AMOUNT, value(amount_minor=encode_long(-(2**63)))),
    "amount 2^63-1": Bomb(C.BAD_AMOUNT, value(amount_minor=encode_long(2**63 - 1))),
    "currency with a Cyrillic letter": Bomb(
        C.BAD_CURRENCY, value(currency=encode_string("\u0415UR"))
    ),
    "time 0": Bomb(C.BAD_TIME, value(event_time=b"\0")),
    "time -2^63": Bomb(C.BAD_TIME, value(event_time=encode_long(-(2**63)))),
    "the year 294000": Bomb(C.BAD_TIME, value(event_time=encode_long(2**63 - 1))),
    **{
        f"by a refused schema: {name}": Bomb(C.REFUSED_SCHEMA, by(schema_id, rest))
        for name, (schema_id, _, rest) in REFUSED.items()
    },
}


def writers() -> Writers:
    """Every schema of the bombs as a worker comes to know it from its registry."""
    found = Writers()
    for schema_id, text in [*SCHEMAS.items(), (UNKNOWN, None)]:
        know(found, schema_id, text)
    return found
