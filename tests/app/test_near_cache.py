"""The near cache against a model of it, and at its edges."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.near_cache import TOKEN_BYTES_MAX, WAYS, NearCache
from app.records import Ragged
from features.xxh64 import hash_bytes

WIDTH, TTL_US = 3, 100


@dataclass
class Model:
    """What the cache promises, in dicts: per set, tokens in order of use with time and value."""

    sets: int
    entries: dict[int, dict[bytes, tuple[int, float]]] = field(default_factory=dict)
    evictions: int = 0

    def of(self, token: bytes) -> dict[bytes, tuple[int, float]]:
        """The set of a token."""
        data = np.frombuffer(token, np.uint8)
        return self.entries.setdefault(int(hash_bytes(data, 0, len(token))) % self.sets, {})

    def get(self, token: bytes, now_us: int) -> float | None:
        """The value, unless it is too old; a hit makes it the most recently used."""
        kept = self.of(token)
        if token not in kept or now_us - kept[token][0] >= TTL_US:
            return None
        kept[token] = kept.pop(token)
        return kept[token][1]

    def put(self, token: bytes, value: float, now_us: int) -> None:
        """Keep a value; a full set gives up what is too old, else the least recently used."""
        kept = self.of(token)
        if token not in kept and len(kept) == WAYS:
            stale = [t for t, (written_us, _) in kept.items() if now_us - written_us >= TTL_US]
            self.evictions += not stale
            # Which of several stale entries goes cannot be seen: none of them is served again.
            kept.pop(stale[0] if stale else next(iter(kept)))
        kept.pop(token, None)
        kept[token] = (now_us, value)


TOKEN = st.one_of(
    st.integers(0, 30).map(lambda i: b"c%07d" % i),
    st.binary(min_size=1, max_size=TOKEN_BYTES_MAX),
)
STEP = st.tuples(st.booleans(), st.lists(TOKEN, max_size=20), st.integers(0, TTL_US // 2))


@given(st.sampled_from([1, WAYS, 2 * WAYS]), st.lists(STEP, max_size=25))
def test_it_keeps_what_its_model_keeps(
    entries: int, steps: list[tuple[bool, list[bytes], int]]
) -> None:
    """Hits, values, misses, expiry and evictions follow the model, in sets that overflow."""
    cache = NearCache(entries, WIDTH, TTL_US)
    model, now_us, hits, misses = Model(cache.entries // WAYS), 0, 0, 0
    for writes, tokens, passed_us in steps:
        now_us += passed_us
        if writes:
            values = np.arange(len(tokens), dtype=np.float32) + now_us
            cache.put(tokens, np.repeat(values[:, np.newaxis], WIDTH, axis=1), now_us)
            for token, kept in zip(tokens, values.tolist(), strict=True):
                model.put(token, kept, now_us)
            continue
        expected = [model.get(token, now_us) for token in tokens]
        out = np.full((len(tokens), WIDTH), -1, np.float32)
        found = cache.lookup(Ragged.of(tokens), now_us, out)
        missing = [t for t, e in zip(tokens, expected, strict=True) if e is None]
        assert found.tokens == list(dict.fromkeys(missing))
        for i, (token, value) in enumerate(zip(tokens, expected, strict=True)):
            assert (out[i] == (-1 if value is None else value)).all()
            assert found.index[i] == (found.tokens.index(token) if value is None else -1)
        hits, misses = hits + len(tokens) - len(missing), misses + len(missing)
    assert (cache.hits, cache.misses, cache.evictions) == (hits, misses, model.evictions)
    assert len(cache) <= sum(map(len, model.entries.values()))  # what is stale may go earlier


def test_a_full_set_gives_up_what_was_not_used() -> None:
    """A lookup keeps an entry: the one that was neither read nor written for longest goes."""
    cache = NearCache(WAYS, 1, TTL_US)
    tokens = [b"%d" % i for i in range(WAYS)]
    out = np.zeros((WAYS, 1), np.float32)
    cache.put(tokens, out, 0)
    cache.lookup(Ragged.of([b"0", b"2"]), 1, out[:2])
    cache.put([b"1", b"new"], out[:2], 1)
    assert cache.lookup(Ragged.of([*tokens[:3], *tokens[4:], b"new"]), 1, out).tokens == []
    assert cache.lookup(Ragged.of([b"3"]), 1, out[:1]).tokens == [b"3"]
    assert cache.evictions == 1


def test_tokens_decide_and_not_their_hashes() -> None:
    """Two tokens of one hash are two entities: the bytes in the slot are compared."""
    cache = NearCache(WAYS, 1, TTL_US)
    cache.put([b"right"], np.ones((1, 1), np.float32), 0)
    data = np.frombuffer(b"wrong", np.uint8)
    cache._slots.tag[:] = hash_bytes(data, 0, len(data))
    out = np.zeros((1, 1), np.float32)
    assert cache.lookup(Ragged.of([b"wrong"]), 1, out).tokens == [b"wrong"]
    assert out[0, 0] == 0


def test_a_prefix_is_another_token() -> None:
    """Zero bytes at the end and shorter tokens are told apart."""
    tokens = [b"a", b"a\0", b"ab", b"\0"]
    cache = NearCache(64, 1, TTL_US)
    cache.put(tokens, np.arange(4, dtype=np.float32)[:, np.newaxis], 0)
    out = np.empty((5, 1), np.float32)
    found = cache.lookup(Ragged.of([*tokens, b"\0\0"]), 1, out)
    assert out[:4, 0].tolist() == [0, 1, 2, 3]
    assert found.tokens == [b"\0\0"]


def test_an_entry_expires_with_its_time_to_live() -> None:
    """It is served until just before, and not at, its time; a new put starts anew."""
    cache, token = NearCache(64, 1, TTL_US), Ragged.of([b"x"])
    out = np.zeros((1, 1), np.float32)
    cache.put([b"x"], np.ones((1, 1), np.float32), 1000)
    assert not cache.lookup(token, 1000 + TTL_US - 1, out).tokens
    assert cache.lookup(token, 1000 + TTL_US, out).tokens == [b"x"]
    cache.put([b"x"], np.full((1, 1), 2, np.float32), 1000 + TTL_US)
    assert not cache.lookup(token, 1000 + TTL_US, out).tokens
    assert out[0, 0] == 2
    assert len(cache) == 1


def test_tokens_beyond_the_limits_are_never_kept() -> None:
    """Too long or empty tokens miss each time; they neither fail nor push others out."""
    cache = NearCache(WAYS, 1, TTL_US)
    odd = [b"", b"x" * (TOKEN_BYTES_MAX + 1)]
    cache.put(odd, np.ones((2, 1), np.float32), 0)
    out = np.zeros((2, 1), np.float32)
    assert cache.lookup(Ragged.of(odd), 0, out).tokens == odd
    assert len(cache) == 0


@pytest.mark.parametrize(("asked", "got"), [(1, 8), (8, 8), (9, 16), (65_536, 65_536)])
def test_entries_round_up(asked: int, got: int) -> None:
    """The number of slots is a power of two, and at least one set."""
    assert NearCache(asked, 1, TTL_US).entries == got


def test_misses_fill_their_rows_only() -> None:
    """What was fetched goes to every row that missed its token and to no other."""
    cache = NearCache(64, 1, TTL_US)
    cache.put([b"a"], np.ones((1, 1), np.float32), 0)
    out = np.zeros((4, 1), np.float32)
    found = cache.lookup(Ragged.of([b"b", b"a", b"c", b"b"]), 1, out)
    found.fill(out, np.array([[20], [30]], np.float32))
    assert out[:, 0].tolist() == [20, 1, 30, 20]


def test_shapes_that_do_not_fit_are_refused() -> None:
    """The loops check nothing, so their callers' shapes are checked before."""
    cache = NearCache(64, 2, TTL_US)
    with pytest.raises(ValueError, match="do not fit"):
        cache.lookup(Ragged.of([b"a"]), 0, np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="is not 2 profiles"):
        cache.put([b"a", b"b"], np.zeros((1, 2), np.float32), 0)
