"""Simulated traffic as bytes: what comes next in a simulated world, and some broken records.

`divided` cuts a world of the handbook in two: a past that ends now, for `backfill`, and the
payments after it. These are sent faster than they happened: `payments` gives `Due` records at a
steady rate, in the order of their time, and a record's event time is the time at which it is due,
so that latency counts from then even if the sender is late. Pure: no clock, no I/O.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

import schemas
from app.encode import encode_long, encode_string
from app.errors import RejectCode
from app.history import PastLog, tags_of
from app.records import Ragged
from features.contract import Timing
from features.offline import Log
from models.handbook import CUSTOMER_DAYS, DAY_US, Payments, World, simulate

HISTORY_DAYS = 45
"""Longer than the windows of the features behind their delay."""
ROUND_RECORDS = 1_000_000
"""After so many payments the same ones come again."""
# So many records are made at once: a long run needs no more memory than this.
BLOCK_RECORDS = 100_000
PAYMENTS_A_DAY = 1.8  # of a customer; a little less than there are
_EUR = encode_string("EUR")
_CHIP_AND_NULLS = encode_long(1) + bytes(3)  # no category, country or device


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


def divided(
    world: World, count: int, now_us: int, past_days: int = HISTORY_DAYS
) -> tuple[Payments, Payments]:
    """The world's first days, moved so that they end at `now_us`, and what comes next.

    `count` payments come next, or ROUND_RECORDS if that is less, on the moved clock too. They are
    the same for the same seed: the world's own `days` do not enter.
    """
    wanted = min(count, ROUND_RECORDS)
    days = past_days + 1 + int(wanted / (PAYMENTS_A_DAY * world.customers))
    while True:
        # How many of a stolen card's payments are frauds depends on the days after them.
        paid, _ = simulate(replace(world, days=days + CUSTOMER_DAYS))
        ends = world.start_us + np.array([past_days, days]) * DAY_US
        cut, end = np.searchsorted(paid.event_time_us, ends).tolist()
        if end - cut >= wanted:
            break
        days *= 2
    moved = replace(paid, event_time_us=paid.event_time_us + (now_us - int(ends[0])))
    return moved.take(slice(cut)), moved.take(slice(cut, cut + wanted))


def past_log(past: Payments, timing: Timing) -> PastLog:
    """The past as a backfill wants it; outcomes are known as late as is still in time."""
    log = Log.of(
        past.customer,
        past.terminal,
        past.event_time_us,
        past.amount_minor,
        past.fraud,
        None,
        timing,
    )
    customers, terminals = (
        [b"%d" % number for number in range(int(column.max(initial=-1)) + 1)]
        for column in (past.customer, past.terminal)
    )
    ids = Ragged.of([b"%d" % number for number in range(len(past))])
    return PastLog(log, customers, terminals, tags_of(ids))


def payments(
    coming: Payments, start_us: int, count: int, rate_per_s: float, header: bytes, begin: int = 0
) -> Iterator[Due]:
    """`count` payments from `start_us` on; `header` is the framing in front of each value.

    The first one has the number `begin`.
    """
    for first in range(begin, begin + count, BLOCK_RECORDS):
        number = np.arange(first, min(first + BLOCK_RECORDS, begin + count))
        due_us = start_us + ((number - begin) * (1e6 / rate_per_s)).astype(np.int64)
        block = replace(coming.take(number % len(coming)), event_time_us=due_us)
        records = encoded(block, f"p{start_us}-", first, header)
        for due, (key, value) in zip(due_us.tolist(), records, strict=True):
            yield Due(due, key, value)


def number_of(transaction_id: str) -> int:
    """Which of the payments it is, from 0."""
    return int(transaction_id.rpartition("-")[2])


def encoded(
    block: Payments, prefix: str, first: int, header: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each payment; ids are `prefix` and a number from `first` on.

    Equal to what fastavro writes, in a fifth of its time.
    """
    columns = (block.customer, block.terminal, block.event_time_us, block.amount_minor)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for number, (customer, terminal, event_time_us, amount_minor) in enumerate(rows, first):
        key = str(customer)
        value = (
            header
            + encode_string(f"{prefix}{number}")
            + encode_string(key)
            + encode_string(str(terminal))
            + encode_long(event_time_us)
            + encode_long(amount_minor)
            + _EUR
            + _CHIP_AND_NULLS
        )
        yield key.encode(), value


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
            _CHIP_AND_NULLS,
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
