"""What the decoder refuses: named bad inputs, and fuzz. A bad record never harms its neighbours.

Both decoders give the same rows and the same verdicts of meaning; for faults of encoding each
record is rejected by both, with a code of the closed list that may differ in kind.
"""

import dataclasses
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import schemas
from app import decode as loop
from app import decode_twin
from app.decode import Writers
from app.errors import RejectCode
from app.records import Ragged, RecordBatch
from tests.strategies import (
    BOTH,
    LIMITS,
    NOW_US,
    SCHEMA,
    Decode,
    batch,
    confluent,
    encode_bytes,
    encode_long,
    fields_of,
    origins_of,
    pieces,
    single_object,
    variant,
)

WIDE = variant(
    flag="boolean",
    small="int",
    tags={"type": "array", "items": "string"},
    counts={"type": "map", "values": ["null", "long"]},
    raw="bytes",
    inner={
        "type": "record",
        "name": "Inner",
        "fields": [
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
            {"name": "digest", "type": {"type": "fixed", "name": "Digest", "size": 4}},
            {"name": "ratio", "type": "double"},
        ],
    },
    currency=["null", "string"],
)
WIDE_ID, UNKNOWN_ID = 7, 8
TAIL = {
    "flag": b"\1",
    "small": encode_long(-5),
    "tags": encode_long(1) + encode_bytes(b"tag") + b"\0",
    "counts": encode_long(-1) + encode_long(5) + encode_bytes(b"k") + b"\2\xac\2" + b"\0",
    "raw": encode_bytes(b"\xff"),
    "inner": b"\2" + b"abcd" + bytes(8),
}


def wide(currency: bytes = b"\2\6EUR", **raw: bytes) -> bytes:
    """A value by WIDE; `raw` puts other bytes in a field's place."""
    own = {name: part for name, part in raw.items() if name not in TAIL}
    body = pieces(currency=currency, **own)
    return confluent(body + b"".join((TAIL | raw)[name] for name in TAIL), WIDE_ID)


def value(**raw: bytes) -> bytes:
    """A value by the bundled schema; `raw` puts other bytes in a field's place."""
    return single_object(pieces(**raw))


def known() -> Writers:
    """The bundled schema and WIDE; the other id is marked unknown."""
    writers = Writers()
    writers.add_id(WIDE_ID, WIDE)
    writers.mark_unknown(UNKNOWN_ID)
    return writers


C = RejectCode
LENGTHS = {"-1": -1, "2^40": 2**40, "2^63-1": 2**63 - 1, "-2^63": -(2**63), "one too long": 200}
BAD_TEXT = {
    "stray continuation": b"\x80",
    "cut off": b"abc\xe2\x82",
    "overlong slash": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "overlong of four": b"\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "byte FF": b"\xff",
    "bad third byte": b"\xe2\x82\x41",
    "after a long ASCII part": b"a" * 17 + b"\xff",
}

WIRE_FAULTS: dict[str, tuple[bytes | None, RejectCode]] = {
    "null value": (None, C.NULL_VALUE),
    "empty value": (b"", C.EMPTY_VALUE),
    "value over the limit": (value() + bytes(LIMITS.value_bytes_max), C.VALUE_TOO_LARGE),
    "foreign magic": (b"\x01" + value()[1:], C.BAD_MAGIC),
    "JSON": (b'{"transaction_id": "tx-1"}', C.BAD_MAGIC),
    "half of the single-object magic": (b"\xc3\x02" + value()[2:], C.BAD_MAGIC),
    "unknown schema id": (confluent(pieces(), UNKNOWN_ID), C.UNKNOWN_SCHEMA),
    "negative schema id": (confluent(pieces(), -3), C.UNKNOWN_SCHEMA),
    "unknown fingerprint": (b"\xc3\x01" + bytes(8) + pieces(), C.UNKNOWN_SCHEMA),
    "header alone": (value()[:10], C.TRUNCATED),
    "trailing byte": (value() + b"\0", C.TRAILING_BYTES),
    "trailing record": (value() + value(), C.TRAILING_BYTES),
    "union index out of range": (value(country=b"\4"), C.BAD_BRANCH),
    "union index negative": (value(country=b"\1"), C.BAD_BRANCH),
    "union index huge": (value(country=encode_long(2**40)), C.BAD_BRANCH),
    "null in a required field": (wide(currency=b"\0"), C.BAD_BRANCH),
    "enum index out of range": (value(channel=encode_long(7)), C.BAD_BRANCH),
    "enum index negative": (value(channel=encode_long(-1)), C.BAD_BRANCH),
    "skipped enum out of range": (wide(inner=b"\4" + bytes(12)), C.BAD_BRANCH),
    "skipped enum negative": (wide(inner=b"\1" + bytes(12)), C.BAD_BRANCH),
    "varint of 11 bytes": (value(amount_minor=b"\x80" * 10 + b"\1"), C.BAD_VARINT),
    "varint of 20 bytes": (value(amount_minor=b"\x80" * 19 + b"\1"), C.BAD_VARINT),
    "varint beyond 64 bits": (value(amount_minor=b"\xff" * 9 + b"\2"), C.BAD_VARINT),
    "varint with a needless byte": (value(amount_minor=b"\x82\0"), C.BAD_VARINT),
    "int beyond 32 bits": (wide(small=encode_long(2**31)), C.BAD_VARINT),
    "int below 32 bits": (wide(small=encode_long(-(2**31) - 1)), C.BAD_VARINT),
    "boolean 7": (wide(flag=b"\7"), C.BAD_BOOLEAN),
    "array count beyond the value": (wide(tags=encode_long(10**9)), C.BAD_LENGTH),
    "array count of the least int64": (
        wide(tags=encode_long(-(2**63)) + b"\2" + TAIL["tags"]),
        C.BAD_LENGTH,
    ),
    "block size negative": (wide(tags=encode_long(-1) + b"\1" + b"\2a\0"), C.BAD_LENGTH),
    "block size too small": (wide(tags=encode_long(-1) + b"\2" + b"\2a\0"), C.BAD_LENGTH),
    "block size too large": (wide(tags=encode_long(-1) + b"\x10" + b"\2a\0"), C.BAD_LENGTH),
    "map key not UTF-8": (wide(counts=b"\2\2\xff\0\0"), C.BAD_UTF8),
    "skipped string not UTF-8": (wide(tags=b"\2\2\xff\0"), C.BAD_UTF8),
    "skipped bytes too long": (wide(raw=encode_long(10**6)), C.BAD_LENGTH),
    **{
        f"string length {name}": (value(terminal_id=encode_long(size) + b"abc"), C.BAD_LENGTH)
        for name, size in LENGTHS.items()
    },
    **{
        f"text with {name}": (value(terminal_id=encode_bytes(text)), C.BAD_UTF8)
        for name, text in BAD_TEXT.items()
    },
}

SEMANTIC_FAULTS: dict[str, tuple[bytes, RejectCode]] = {
    "transaction_id empty": (value(transaction_id=b"\0"), C.BAD_ID),
    "transaction_id of 65 bytes": (value(transaction_id=encode_bytes(b"t" * 65)), C.BAD_ID),
    "customer_id empty": (value(customer_id=b"\0"), C.BAD_ID),
    "terminal_id of 33 letters of 2 bytes": (
        value(terminal_id=encode_bytes("ü".encode() * 33)),
        C.BAD_ID,
    ),
    **{
        f"identifier with U+{ord(letter):04X}": (
            value(terminal_id=encode_bytes(f"term{letter}1".encode())),
            C.BAD_ID,
        )
        for letter in "\0\n\r\t\x1b\x7f\x80\x85\x9f\u061c\u200e\u200f\u202a\u202e\u2066\u2069"
    },
    "device_id of one bidi mark": (
        value(device_id=b"\2" + encode_bytes("\u202e".encode())),
        C.BAD_ID,
    ),
    "device_id empty": (value(device_id=b"\2\0"), C.BAD_ID),
    "device_id of 65 bytes": (value(device_id=b"\2" + encode_bytes(b"d" * 65)), C.BAD_ID),
    "merchant_category of 3 digits": (
        value(merchant_category=b"\2" + encode_bytes(b"541")),
        C.BAD_ID,
    ),
    "merchant_category with a letter": (
        value(merchant_category=b"\2" + encode_bytes(b"54I1")),
        C.BAD_ID,
    ),
    "country in small letters": (value(country=b"\2\4de"), C.BAD_ID),
    "country of 3 letters": (value(country=b"\2\6DEU"), C.BAD_ID),
    "country empty": (value(country=b"\2\0"), C.BAD_ID),
    "another customer's key": (value(customer_id=encode_bytes(b"customer-2")), C.BAD_KEY),
    "a key that goes on": (value(customer_id=encode_bytes(b"customer")), C.BAD_KEY),
    "amount negative": (value(amount_minor=encode_long(-1)), C.BAD_AMOUNT),
    "amount absurd": (value(amount_minor=encode_long(10**12 + 1)), C.BAD_AMOUNT),
    "amount of int64 min": (value(amount_minor=encode_long(-(2**63))), C.BAD_AMOUNT),
    "currency unknown": (value(currency=encode_bytes(b"EUX")), C.BAD_CURRENCY),
    "currency in small letters": (value(currency=encode_bytes(b"eur")), C.BAD_CURRENCY),
    "currency with a homoglyph": (
        value(currency=encode_bytes("\u0415UR".encode())),
        C.BAD_CURRENCY,
    ),
    "currency of 4 letters": (value(currency=encode_bytes(b"EURO")), C.BAD_CURRENCY),
    "currency empty": (value(currency=b"\0"), C.BAD_CURRENCY),
    "event time before 2000": (
        value(event_time=encode_long(946_684_799_999_999)),
        C.BAD_TIME,
    ),
    "event time zero": (value(event_time=b"\0"), C.BAD_TIME),
    "event time after append time": (
        value(event_time=encode_long(NOW_US + LIMITS.future_us_max + 1)),
        C.BAD_TIME,
    ),
    "event time in the year 300000": (value(event_time=encode_long(2**63 - 1)), C.BAD_TIME),
    "event time of int64 min": (value(event_time=encode_long(-(2**63))), C.BAD_TIME),
}
GOOD = [value(), wide(), value(device_id=b"\0"), wide(flag=b"\0")]


def check_neighbours(decode: Decode, bad: bytes | None, records: RecordBatch | None = None) -> None:
    """The columns beside a bad record are bit-equal to those of a batch without it."""
    around = decode(records or batch([*GOOD[:2], bad, *GOOD[2:]]), known(), LIMITS).transactions
    alone = decode(batch(GOOD), known(), LIMITS).transactions
    assert around.row.tolist() == [0, 1, 3, 4]
    assert fields_of(around) == fields_of(alone)
    for each in dataclasses.fields(around):
        if each.name not in ("row", "partition", "offset", "text", "text_start"):
            ours, theirs = getattr(around, each.name), getattr(alone, each.name)
            assert ours.tobytes() == theirs.tobytes()


@BOTH
@pytest.mark.parametrize("fault", WIRE_FAULTS)
def test_faults_of_encoding(decode: Decode, fault: str) -> None:
    """Each is exactly one reject of stage decode with its code, and harms no neighbour."""
    bad, code = WIRE_FAULTS[fault]
    rejects = decode(batch([*GOOD[:2], bad, *GOOD[2:]]), known(), LIMITS).rejects
    assert [(each.row, each.code, each.stage) for each in rejects] == [(2, code, "decode")]
    check_neighbours(decode, bad)


@BOTH
@pytest.mark.parametrize("fault", SEMANTIC_FAULTS)
def test_faults_of_meaning(decode: Decode, fault: str) -> None:
    """Each is exactly one reject of stage validate with its code, and harms no neighbour."""
    bad, code = SEMANTIC_FAULTS[fault]
    rejects = decode(batch([*GOOD[:2], bad, *GOOD[2:]]), known(), LIMITS).rejects
    assert [(each.row, each.code, each.stage) for each in rejects] == [(2, code, "validate")]
    check_neighbours(decode, bad)


@BOTH
@pytest.mark.parametrize("key", [None, b"", b"customer-2", b"customer-1\0"])
def test_a_key_that_is_not_the_customer(decode: Decode, key: bytes | None) -> None:
    """A record under a null or another key is rejected as BAD_KEY, alone."""
    keys = [b"customer-1"] * 2 + [key] + [b"customer-1"] * 2
    records = batch([*GOOD[:2], value(), *GOOD[2:]], keys)
    rejects = decode(records, known(), LIMITS).rejects
    assert [(each.row, each.code, each.stage) for each in rejects] == [(2, C.BAD_KEY, "validate")]
    check_neighbours(decode, None, records)


@BOTH
def test_keys_are_compared_to_the_last_byte(decode: Decode) -> None:
    """For customers of every length, a key that differs in any one byte is another's."""
    values, keys = [], []
    for size in range(1, 65):
        customer = bytes(0x41 + k % 26 for k in range(size))
        others = [customer[:at] + b"~" + customer[at + 1 :] for at in range(size)]
        keys += [customer, *others]
        values += [value(customer_id=encode_bytes(customer))] * (1 + size)
    result = decode(batch(values, keys), known(), LIMITS)
    assert len(result.transactions) == 64
    assert {each.code for each in result.rejects} == {C.BAD_KEY}


@BOTH
def test_text_is_what_python_decodes(decode: Decode) -> None:
    """All strings of up to three bytes at the borders of UTF-8, and longer ones: as in Python."""
    borders = bytes.fromhex("00417f808f909fa0bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5ff")
    texts = [bytes(each) for n in (1, 2, 3) for each in itertools.product(borders, repeat=n)]
    choose = random.Random(5)  # noqa: S311 -- repeatable
    texts += [bytes(choose.choices(borders, k=choose.randrange(4, 24))) for _ in range(2000)]
    texts += [b"a" * k + "é€🔑".encode() + b"b" * (20 - k) for k in range(20)]
    records = batch([value(terminal_id=encode_bytes(text)) for text in texts])
    rejects = decode(records, known(), LIMITS).rejects
    refused = {each.row for each in rejects if each.code is C.BAD_UTF8}
    for row, text in enumerate(texts):
        assert (row in refused) == (text.decode(errors="replace").encode() != text)


@BOTH
def test_identifiers_are_what_the_twin_says(decode: Decode) -> None:
    """Around every character that hides others: those are rejected, their neighbours are not."""
    near = {chr(ord(letter) + step) for letter in decode_twin.HIDING for step in (-1, 0, 1)
            if ord(letter) + step >= 0}  # fmt: skip
    texts = [text for letter in sorted(near) for text in (letter, f"a{letter}", f"é{letter}b€")]
    records = batch([value(device_id=b"\2" + encode_bytes(text.encode())) for text in texts])
    refused = {each.row for each in decode(records, known(), LIMITS).rejects}
    assert refused == {row for row, text in enumerate(texts) if not decode_twin.is_id(text)}
    assert 0 < len(refused) < len(texts)


@BOTH
@pytest.mark.parametrize(
    "headers",
    [
        [("n", b"")] * (LIMITS.headers_max + 1),
        [("n", b"")] * 10_000,
        [("n", bytes(LIMITS.header_bytes_max))],
        [("n" * LIMITS.header_bytes_max, b"v")],
        [("n", None), ("m", bytes(2**20))],
    ],
    ids=["one too many", "10,000", "value", "name", "1 MB"],
)
def test_headers_over_the_limits(decode: Decode, headers: list[tuple[str, bytes | None]]) -> None:
    """Too many headers or header bytes reject their record, alone."""
    records = batch([*GOOD[:2], value(), *GOOD[2:]], headers={2: headers, 3: [("n", b"v")]})
    rejects = decode(records, known(), LIMITS).rejects
    assert [(each.row, each.code) for each in rejects] == [(2, C.HEADERS_TOO_LARGE)]
    check_neighbours(decode, None, records)


@BOTH
@pytest.mark.parametrize("whole", [value(), wide()], ids=["bundled", "wide"])
def test_every_prefix_is_rejected(decode: Decode, whole: bytes) -> None:
    """However short a value is cut, it is one reject, and what stands beside it does not help."""
    cut = [whole[:size] for size in range(len(whole))]
    result = decode(batch([*cut, whole]), known(), LIMITS)
    assert result.transactions.row.tolist() == [len(whole)]
    codes = [each.code for each in result.rejects]
    assert len(codes) == len(whole)
    assert codes[0] is C.EMPTY_VALUE
    assert set(codes[1:]) <= {C.TRUNCATED, C.BAD_LENGTH}


def test_damaged_headers_stay_within_bounds() -> None:
    """Packed headers that no transport makes are refused without reading past them."""
    good = value()
    for packed in (b"\1", bytes(7), b"\5\0\0\0ab\0\0", b"\1\0\0\0n\xff\xff\xff\x7f", bytes(9)):
        records = dataclasses.replace(batch([good]), headers=Ragged.of([packed]))
        rejects = loop.decode(records, Writers(), LIMITS).rejects
        assert [each.code for each in rejects] == [C.HEADERS_TOO_LARGE]


def random_values(choose: random.Random) -> Iterator[bytes]:
    """Bytes of no meaning, most of them behind a header that is known."""
    heads = (b"", b"\0", value()[:10], confluent(b"", WIDE_ID))
    while True:
        yield choose.choice(heads) + choose.randbytes(choose.randrange(120))


def flip(data: bytes, choose: random.Random) -> bytes:
    """One bit changed."""
    at = choose.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]


def splice(data: bytes, choose: random.Random) -> bytes:
    """The begin of one value and the end of another."""
    other = choose.choice(GOOD)
    return data[: choose.randrange(len(data))] + other[choose.randrange(len(other)) :]


def truncate(data: bytes, choose: random.Random) -> bytes:
    """An end cut off."""
    return data[: choose.randrange(len(data))]


def insert(data: bytes, choose: random.Random) -> bytes:
    """A few bytes put in, or put in another's place."""
    at, size = choose.randrange(len(data)), choose.randrange(1, 6)
    extreme = choose.choice([choose.randbytes(size), b"\xff" * size, b"\x80" * size, bytes(size)])
    return data[:at] + extreme + data[at + choose.randrange(2) * size :]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip,
    flip,
    splice,
    truncate,
    insert,
)


def mutants(choose: random.Random) -> Iterator[bytes]:
    """Valid values damaged once or twice; in half of them the header is left whole."""
    while True:
        whole = choose.choice(GOOD)
        kept = choose.randrange(2) * (10 if whole[0] else 5)
        damaged = whole[kept:]
        for _ in range(choose.randrange(1, 3)):
            damaged = choose.choice(MUTATIONS)(damaged or b"\0", choose)
        yield whole[:kept] + damaged


def take(values: Iterator[bytes], count: int, size: int = 2000) -> Iterator[RecordBatch]:
    """Batches of so many values in all."""
    for _ in range(count // size):
        yield batch(list(itertools.islice(values, size)))


def decode_all(decode: Decode, records: RecordBatch, writers: Writers) -> loop.Decoded:
    """Decode; ids that damage made up are marked unknown first, as a registry would answer."""
    while unresolved := (result := decode(records, writers, LIMITS)).unresolved:
        for schema_id in unresolved:
            writers.mark_unknown(schema_id)
    return result


@pytest.mark.parametrize("source", [random_values, mutants])
def test_fuzz_accounts_for_every_record(
    source: Callable[[random.Random], Iterator[bytes]],
) -> None:
    """Of 100,000 random or damaged values each is one row or one reject; nothing is raised."""
    writers = known()
    for records in take(source(random.Random(20_261_121)), 100_000):  # noqa: S311 -- repeatable
        result = decode_all(loop.decode, records, writers)
        rows = result.transactions.row.tolist() + [each.row for each in result.rejects]
        assert sorted(rows) == list(range(len(records)))


def test_fuzz_agrees_with_the_twin() -> None:
    """Of 20,000 damaged values both accept the same, read the same and judge meaning the same."""
    writers, accepted = known(), 0
    for records in take(mutants(random.Random(7)), 20_000):  # noqa: S311 -- repeatable
        fast = decode_all(loop.decode, records, writers)
        slow = decode_all(decode_twin.decode, records, writers)
        assert origins_of(fast.transactions) == origins_of(slow.transactions)
        assert fields_of(fast.transactions) == fields_of(slow.transactions)
        for ours, theirs in zip(fast.rejects, slow.rejects, strict=True):
            assert (ours.row, ours.stage) == (theirs.row, theirs.stage)
            assert ours.stage == "decode" or ours.code == theirs.code
        accepted += len(fast.transactions)
    assert 500 < accepted < 19_500


def test_what_lies_around_a_value_does_not_matter() -> None:
    """Values apart in a buffer of other bytes give the same verdicts, whatever these bytes are."""
    values = list(itertools.islice(mutants(random.Random(9)), 4000))  # noqa: S311 -- repeatable
    plain = batch(values)
    writers = known()
    expected = decode_all(loop.decode, plain, writers)
    for filler in (b"\0", b"\x80", b"\xff", b"\2"):
        gap = filler * 16
        data = np.frombuffer(gap + gap.join(values) + gap, np.uint8)
        start = plain.values.start + 16 * np.arange(1, len(values) + 1)
        spread = dataclasses.replace(plain, values=Ragged(data, start, plain.values.length))
        result = decode_all(loop.decode, spread, writers)
        assert result.rejects == expected.rejects
        assert fields_of(result.transactions) == fields_of(expected.transactions)


BOUNDS_CHECKED = """
import itertools, random
from app import decode
from tests.app import test_decode_hostile as hostile
writers = hostile.known()
for source in (hostile.random_values, hostile.mutants):
    for value in itertools.islice(source(random.Random(3)), 10_000):
        hostile.decode_all(decode.decode, hostile.batch([value]), writers)
"""


def test_no_index_leaves_its_array(tmp_path: "os.PathLike[str]") -> None:
    """Compiled with bounds checks, one value to a buffer, 20,000 hostile values raise nothing."""
    env = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": os.fspath(tmp_path)}
    subprocess.run([sys.executable, "-c", BOUNDS_CHECKED], env=env, check=True, timeout=300)


def test_a_schema_of_its_own_fingerprint() -> None:
    """The wide schema has another fingerprint than the bundled one, so the tests above use both."""
    assert schemas.parse(WIDE).fingerprint != SCHEMA.fingerprint
