"""Simulated traffic as bytes: payments of a seeded population, and some broken records among them.

In: a seed, an instant, a rate, a framing. Out: `Due` records in the order of their time; a record's
event time is the time at which it is due, so that latency counts from then even if the sender is
late. Pure: no clock, no I/O.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import fastavro

import schemas
from app.encode import encode_long, encode_string
from app.errors import RejectCode
from models.simulate import Population

# So many payments are drawn at once: a long run needs no more memory than this.
BLOCK_RECORDS = 100_000


class Due(NamedTuple):
    """A record and the instant at which it is to be sent, in us since 1970-01-01 UTC."""

    due_us: int
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """A way to break a good record, and the code with which it must come back."""

    code: RejectCode
    breaks: Callable[[Due, bytes], Due]


def payments(
    population: Population, start_us: int, count: int, rate_per_s: float, header: bytes
) -> Iterator[Due]:
    """`count` payments from `start_us` on; `header` is the framing in front of each value."""
    parsed = schemas.load("transaction").parsed
    out = io.BytesIO()
    for first in range(0, count, BLOCK_RECORDS):
        size = min(BLOCK_RECORDS, count - first)
        block_us = start_us + int(first * 1e6 / rate_per_s)
        block = population.stream(block_us, size, rate_per_s)
        keys = (population.customer_tokens[c] for c in block.customer.tolist())
        records = population.records(block, f"p{block_us}-")
        for due_us, key, record in zip(block.event_time_us.tolist(), keys, records, strict=True):
            out.seek(0)
            out.truncate()
            out.write(header)
            fastavro.schemaless_writer(out, parsed, record)
            yield Due(due_us, key, out.getvalue())


def with_broken(good: Iterator[Due], count: int, broken: int, header: bytes) -> Iterator[Due]:
    """Put `broken` broken records evenly among `count` good ones: all kinds in turn."""
    made = 0
    for i, record in enumerate(good, 1):
        yield record
        while made < broken * i // count:
            yield BROKEN[made % len(BROKEN)].breaks(record, header)
            made += 1


def _truncated(good: Due, _header: bytes) -> Due:
    # The last byte says that there is no device.
    return good._replace(value=good.value[:-1])


def _foreign_magic(good: Due, _header: bytes) -> Due:
    return good._replace(value=b'{"amount": 12.5}')


def _wrong_key(good: Due, _header: bytes) -> Due:
    return good._replace(key=b"somebody-else")


def _trailing_bytes(good: Due, _header: bytes) -> Due:
    return good._replace(value=good.value + b"\x00")


def _unknown_schema(good: Due, header: bytes) -> Due:
    return good._replace(value=schemas.SINGLE_OBJECT_MAGIC + bytes(8) + good.value[len(header) :])


def _empty(good: Due, _header: bytes) -> Due:
    return good._replace(value=b"")


def _bad_currency(good: Due, header: bytes) -> Due:
    return good._replace(value=_encoded(good, header, currency=b"\x06eur"))


def _negative_amount(good: Due, header: bytes) -> Due:
    return good._replace(value=_encoded(good, header, amount_minor=-100))


def _bad_utf8(good: Due, header: bytes) -> Due:
    return good._replace(value=_encoded(good, header, terminal_id=b"\x04\xc3\x28"))


def _encoded(
    good: Due,
    header: bytes,
    *,
    terminal_id: bytes = b"\x02t",
    amount_minor: int = 1250,
    currency: bytes = b"\x06EUR",
) -> bytes:
    """Encode a payment by hand, since a writer would refuse what is wrong with it."""
    customer = (good.key or b"").decode()
    return b"".join(
        (
            header,
            encode_string("broken"),
            encode_string(customer),
            terminal_id,
            encode_long(good.due_us),
            encode_long(amount_minor),
            currency,
            bytes(4),  # UNKNOWN, and three nulls
        )
    )


BROKEN: tuple[Broken, ...] = (
    Broken(RejectCode.TRUNCATED, _truncated),
    Broken(RejectCode.BAD_MAGIC, _foreign_magic),
    Broken(RejectCode.BAD_KEY, _wrong_key),
    Broken(RejectCode.BAD_CURRENCY, _bad_currency),
    Broken(RejectCode.BAD_AMOUNT, _negative_amount),
    Broken(RejectCode.BAD_UTF8, _bad_utf8),
    Broken(RejectCode.TRAILING_BYTES, _trailing_bytes),
    Broken(RejectCode.UNKNOWN_SCHEMA, _unknown_schema),
    Broken(RejectCode.EMPTY_VALUE, _empty),
)
