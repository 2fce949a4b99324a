"""Enrichment: one join, one list of keys, and the same matrix whatever was cached."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.enrich import Caches, join, lookup
from app.records import Float32s, Transactions
from features.contract import WIDTH
from features.profile import CUSTOMER_PROFILE, LAYOUTS, TERMINAL_PROFILE, Layout, encode, key
from features.vectorize import country_codes, vectorize
from tests.app.builders import T0, transactions

TTL_US = 60_000_000
ENTITIES = 12


def stored(layout: Layout) -> Float32s:
    """A profile for each of the known entities."""
    found = np.random.default_rng(layout.width).uniform(0, 9, (ENTITIES, layout.width))
    found[:, 0] = 1
    return found.astype(np.float32)


PROFILES = {entity: stored(layout) for entity, layout in LAYOUTS.items()}
STORE = {
    key(entity, b"%s%d" % (entity[:1].encode(), i)): blob
    for entity, layout in LAYOUTS.items()
    for i, blob in enumerate(encode(layout, PROFILES[entity]))
}
PAIRS = st.lists(st.tuples(st.integers(0, ENTITIES + 3), st.integers(0, ENTITIES + 3)), max_size=30)


def batch(pairs: list[tuple[int, int]]) -> Transactions:
    """Payments of customers c<i> at terminals t<j>; the numbers from ENTITIES on are unknown."""
    return transactions(
        [
            {
                "customer_id": f"c{c}",
                "terminal_id": f"t{t}",
                "event_time_us": T0 + 3_600_000_000 * k,
                "amount_minor": 100 * k,
                "channel": k % 7,
                "country": ("DE", None, "FR")[k % 3],
            }
            for k, (c, t) in enumerate(pairs)
        ]
    )


def enriched(payments: Transactions, caches: Caches, now_us: int) -> tuple[Float32s, list[bytes]]:
    """The matrix, and the keys that were fetched for it."""
    pending = lookup(payments, caches, now_us)
    blobs = [STORE.get(name) for name in pending.keys]
    return join(payments, pending, blobs, caches, now_us), pending.keys


def direct(payments: Transactions, pairs: list[tuple[int, int]]) -> Float32s:
    """The kernel on profiles looked up one by one."""
    tables = []
    for column, (entity, layout) in enumerate(LAYOUTS.items()):
        known = [*PROFILES[entity], *[layout.defaults] * 4]
        rows = [known[pair[column]] for pair in pairs]
        tables.append(np.array(rows, np.float32).reshape(len(pairs), layout.width))
    country = payments.strings("country")
    return vectorize(
        payments.event_time_us,
        payments.amount_minor,
        payments.channel,
        country_codes(country.data, country.start, country.length),
        *tables,
    )


@given(st.lists(st.tuples(PAIRS, st.integers(0, TTL_US)), max_size=6), st.sampled_from([1, 64]))
def test_caching_leaves_no_trace_in_the_matrix(
    batches: list[tuple[list[tuple[int, int]], int]], entries: int
) -> None:
    """Cold, warm, overflowing or expired: the matrix is what the store's profiles give."""
    caches, now_us = Caches.of(entries, TTL_US), 0
    for pairs, passed_us in batches:
        now_us += passed_us
        payments = batch(pairs)
        matrix, _ = enriched(payments, caches, now_us)
        assert matrix.dtype == np.float32
        assert matrix.shape == (len(pairs), WIDTH)
        assert matrix.tobytes() == direct(payments, pairs).tobytes()


def test_both_entities_share_one_list_of_keys() -> None:
    """Each missing entity is wanted once, customers first, so that one MGET serves a batch."""
    payments = batch([(1, 2), (3, 2), (1, 1)])
    pending = lookup(payments, Caches.of(64, TTL_US), 0)
    assert pending.keys == [
        key("customer", b"c1"),
        key("customer", b"c3"),
        key("terminal", b"t2"),
        key("terminal", b"t1"),
    ]


def test_a_warm_cache_wants_nothing() -> None:
    """The second time nothing is fetched, unknown entities included, until their time is over."""
    caches = Caches.of(64, TTL_US)
    payments = batch([(1, 2), (ENTITIES, ENTITIES + 1)])
    assert len(enriched(payments, caches, 0)[1]) == 4
    assert enriched(payments, caches, TTL_US - 1)[1] == []
    assert len(enriched(payments, caches, TTL_US)[1]) == 4


def test_one_missing_entity_is_one_key() -> None:
    """With only a terminal missing, only the terminal is fetched and cached."""
    caches = Caches.of(64, TTL_US)
    enriched(batch([(1, 2)]), caches, 0)
    assert enriched(batch([(1, 3)]), caches, 0)[1] == [key("terminal", b"t3")]
    assert enriched(batch([(2, 3)]), caches, 0)[1] == [key("customer", b"c2")]


def test_damaged_blobs_are_read_as_defaults_and_counted() -> None:
    """A damaged profile costs its features, never the payment; the count is for the metrics."""
    caches, payments = Caches.of(64, TTL_US), batch([(1, 2)])
    pending = lookup(payments, caches, 0)
    matrix = join(payments, pending, [b"broken", b""], caches, 0)
    assert caches.damaged == 2
    unknown = batch([(ENTITIES, ENTITIES)])
    assert matrix.tobytes() == direct(unknown, [(ENTITIES, ENTITIES)]).tobytes()


def test_an_empty_batch_is_an_empty_matrix() -> None:
    """A batch whose records were all rejected passes."""
    assert enriched(batch([]), Caches.of(64, TTL_US), 0)[0].shape == (0, WIDTH)


def test_blobs_must_answer_the_keys() -> None:
    """A store that answers another number of keys would shift profiles between people."""
    caches, payments = Caches.of(64, TTL_US), batch([(1, 2)])
    pending = lookup(payments, caches, 0)
    with pytest.raises(ValueError, match="1 blobs do not answer 2 keys"):
        join(payments, pending, [None], caches, 0)


def test_caches_have_their_layouts_widths() -> None:
    """Each cache holds the rows of its own entity."""
    caches = Caches.of(100, TTL_US)
    assert caches.customers.width == CUSTOMER_PROFILE.width
    assert caches.terminals.width == TERMINAL_PROFILE.width
    assert caches.customers.entries == caches.terminals.entries == 128
