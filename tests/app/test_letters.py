"""Dead letters in columns: the loop packs the same as plain Python, letter by letter."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app import letters
from app.decode_twin import reject
from app.errors import RejectCode
from app.letters import letters_of
from app.records import Letters, Ragged, RecordBatch, Reject, pack_headers
from tests.app.builders import record_batch

NAMES = [
    "trace",
    "",
    "риск",
    "riskwire",
    "riskwire.error.first_seen",
    "riskwire.envelope",
    "n" * 90,
]
maybe_bytes = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.sampled_from(NAMES), maybe_bytes), max_size=4)
rows = st.tuples(
    st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), maybe_bytes, maybe_bytes, headers
)
codes = st.sampled_from(list(RejectCode))


@given(st.lists(st.tuples(rows, codes), max_size=6), st.sampled_from([300, 340, 400, 4000]))
def test_the_loop_packs_what_python_does(each: list[tuple[Any, Any]], bytes_max: int) -> None:
    """Any headers, ours among them, any size around the limit: letter for letter the same."""
    records = record_batch([row[:4] for row, _ in each], headers=[row[4] for row, _ in each])
    rejects = [reject(i, code) for i, (_, code) in enumerate(each)]
    plain = [letters._letter(records, one, "dead", bytes_max) for one in rejects]
    assert list(letters_of(records, rejects, "dead", bytes_max)) == plain


def test_every_size_around_the_limit() -> None:
    """A letter is cut from exactly the same size on by both."""
    records = record_batch([(1, 77, b"k", b"x" * size) for size in range(200)])
    rejects = [reject(i, RejectCode.BAD_UTF8) for i in range(200)]
    found = letters_of(records, rejects, "dead", 400)
    assert list(found) == [letters._letter(records, one, "dead", 400) for one in rejects]
    cut = [letter.value is None for letter in found]
    assert cut == sorted(cut)
    assert 0 < sum(cut) < 200


def test_damaged_headers_are_left_to_python() -> None:
    """Packed headers that no transport makes are walked within their bounds; the loop declines."""
    whole = pack_headers([("trace", b"1234")])
    damaged = [whole[:size] for size in range(1, len(whole))] + [b"\xff" * 12, b"\0\0\0\x7f" * 3]
    for packed in damaged:
        data = np.frombuffer(packed, np.uint8)
        found = letters._lengths(data, 0, np.int64(len(packed)), letters._bytes(b"riskwire."))
        assert found == letters.ODD
    assert letters._lengths(np.frombuffer(whole, np.uint8), 0, np.int64(len(whole)), data[:9]) == 8


def test_letters_are_a_sequence() -> None:
    """Of one letter or many, by place or slice; nothing is made before it is asked for."""
    records: RecordBatch = record_batch([(1, 5, b"k", b"v"), (2, 6, None, None)])
    rejects = [Reject(0, RejectCode.BAD_ID, "validate"), Reject(1, RejectCode.NULL_VALUE, "decode")]
    both = letters_of(records, rejects, "dead", 4000)
    assert [both[0], both[-1]] == both[:] == list(both)
    assert list(Letters.of(both[1])) == [both[1]]
    assert (both[1].key, both[1].value) == (None, None)
    assert len(letters_of(records, [], "dead", 4000)) == 0
    assert isinstance(both.headers, Ragged)
