"""The benchmark's load: a topic full of valid transactions, and the profiles that they meet.

A simulated population of 5,000 customers and 10,000 terminals, encoded in Avro's single-object
encoding and produced once; every lane then reads the same bytes. The same seed and start time give
the same records. Raises BrokerUnavailable or StoreUnavailable.
"""

import asyncio
import time
from collections.abc import Iterator
from functools import cache

from pydantic import SecretStr

import schemas
from app.adapters.admin import fill
from app.adapters.redis import RedisStore
from app.encode import encode_long, encode_string
from features import profile
from features.aggregate import DAY_US, WINDOW_DAYS, aggregate
from models.simulate import CATEGORIES, COUNTRIES, CURRENCY, Payments, Population

CUSTOMERS, TERMINALS, SEED = 5_000, 10_000, 11
RATE_PER_S = 2000.0
NULL = encode_long(0)
HERE = encode_long(1)


def population() -> Population:
    """The people and places of every benchmark."""
    return Population(SEED, CUSTOMERS, TERMINALS)


def payments(people: Population, n: int) -> Payments:
    """`n` payments that end now, so that none lies in the future."""
    start_us = time.time_ns() // 1000 - int(n / RATE_PER_S * 1e6)
    return people.stream(start_us, n, RATE_PER_S)


def encoded(people: Population, paid: Payments) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each payment; equal to what fastavro writes, in a fifth of its time."""
    header = schemas.load("transaction").single_object_header
    customers = [encode_string(token.decode()) for token in people.customer_tokens]
    terminals = [encode_string(token.decode()) for token in people.terminal_tokens]
    currency = encode_string(CURRENCY)

    @cache
    def tail(amount: int, channel: int, category: int, country: int) -> bytes:
        return b"".join(
            (
                encode_long(amount),
                currency,
                encode_long(channel),
                HERE,
                encode_string(CATEGORIES[category]),
                HERE,
                encode_string(COUNTRIES[country]),
                NULL,
            )
        )

    columns = (
        paid.customer, paid.terminal, paid.event_time_us, paid.amount_minor, paid.channel,
        paid.merchant_category, paid.country,
    )  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for i, (customer, terminal, event_time, amount, channel, category, country) in enumerate(rows):
        # "tx" and nine digits: 11 bytes, whose Avro length is 22.
        value = b"%b\x16tx%09d%b%b%b%b" % (
            header,
            i,
            customers[customer],
            terminals[terminal],
            encode_long(event_time),
            tail(amount, channel, category, country),
        )
        yield people.customer_tokens[customer], value


def fill_topic(bootstrap: str, topic: str, n: int) -> int:
    """Produce `n` transactions; the count."""
    people = population()
    return fill(bootstrap, topic, encoded(people, payments(people, n)))


def fill_profiles(redis_url: str) -> int:
    """Write the profile of every customer and terminal, from a month of history; the count."""
    people = population()
    now_us = time.time_ns() // 1000
    past = people.history(now_us - WINDOW_DAYS * DAY_US, now_us)
    found = aggregate(people.as_history(past), now_us)
    blobs: dict[bytes, bytes] = {}
    for layout, tokens, rows in (
        (profile.CUSTOMER_PROFILE, people.customer_tokens, found.customers),
        (profile.TERMINAL_PROFILE, people.terminal_tokens, found.terminals),
    ):
        keys = [profile.key(layout.entity, token) for token in tokens]
        blobs |= dict(zip(keys, profile.encode(layout, rows), strict=True))
    asyncio.run(_write(redis_url, list(blobs.items())))
    return len(blobs)


async def _write(redis_url: str, blobs: list[tuple[bytes, bytes]]) -> None:
    store = RedisStore(SecretStr(redis_url), timeout_ms=10_000)
    try:
        await store.write(blobs)
    finally:
        await store.close()
