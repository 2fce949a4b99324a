"""Stage 2: accepted transactions become feature vectors. The result is the matrix.

`lookup` takes the profiles that the worker has in memory and says which Redis keys it still wants,
both entities in one list, so that one MGET serves a batch; without a wanted key there is nothing to
fetch. `join` takes the blobs that came back, completes the profiles (defaults where a blob is
missing or damaged), remembers them, and runs the join kernel. Pure apart from the caches: no clock,
no I/O. Raises ValueError where blobs and keys differ in number, which is a fault of the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.near_cache import Misses, NearCache
from app.records import Float32s, Transactions
from features import profile
from features.profile import CUSTOMER_PROFILE, TERMINAL_PROFILE
from features.vectorize import country_codes, vectorize


@dataclass(slots=True, eq=False)
class Caches:
    """The near caches of one worker, and how many damaged blobs it has met."""

    customers: NearCache
    terminals: NearCache
    damaged: int = 0

    @classmethod
    def of(cls, entries: int, ttl_us: int) -> "Caches":
        """Empty caches of `entries` profiles for each entity."""
        return cls(
            NearCache(entries, CUSTOMER_PROFILE.width, ttl_us),
            NearCache(entries, TERMINAL_PROFILE.width, ttl_us),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A batch between lookup and join: profiles float32 (n, width), filled where they hit.

    `keys` are the wanted Redis keys: the missing customers', then the missing terminals'.
    """

    customers: Float32s
    terminals: Float32s
    customer_misses: Misses
    terminal_misses: Misses
    keys: list[bytes]


def lookup(transactions: Transactions, caches: Caches, now_us: int) -> Pending:
    """Fill what the caches hold and list the keys of what they do not."""
    n = len(transactions)
    customers = np.empty((n, CUSTOMER_PROFILE.width), np.float32)
    terminals = np.empty((n, TERMINAL_PROFILE.width), np.float32)
    of_customers = caches.customers.lookup(transactions.strings("customer_id"), now_us, customers)
    of_terminals = caches.terminals.lookup(transactions.strings("terminal_id"), now_us, terminals)
    keys = [profile.key("customer", token) for token in of_customers.tokens]
    keys += [profile.key("terminal", token) for token in of_terminals.tokens]
    return Pending(customers, terminals, of_customers, of_terminals, keys)


def join(
    transactions: Transactions,
    pending: Pending,
    blobs: Sequence[bytes | None],
    caches: Caches,
    now_us: int,
) -> Float32s:
    """The feature matrix, float32 (n, WIDTH); `blobs` answer `pending.keys` one by one."""
    if len(blobs) != len(pending.keys):
        msg = f"{len(blobs)} blobs do not answer {len(pending.keys)} keys"
        raise ValueError(msg)
    if blobs:
        split = len(pending.customer_misses.tokens)
        customers, bad_customers = profile.decode(CUSTOMER_PROFILE, blobs[:split])
        terminals, bad_terminals = profile.decode(TERMINAL_PROFILE, blobs[split:])
        caches.damaged += bad_customers + bad_terminals
        pending.customer_misses.fill(pending.customers, customers)
        pending.terminal_misses.fill(pending.terminals, terminals)
        caches.customers.put(pending.customer_misses.tokens, customers, now_us)
        caches.terminals.put(pending.terminal_misses.tokens, terminals, now_us)
    country = transactions.strings("country")
    return vectorize(
        transactions.event_time_us,
        transactions.amount_minor,
        transactions.channel,
        country_codes(country.data, country.start, country.length),
        pending.customers,
        pending.terminals,
    )
