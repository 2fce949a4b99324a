"""Profiles as blobs: what is written is read, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features.profile import (
    BLOB_BYTES_MAX,
    CUSTOMER_PROFILE,
    HEADER_BYTES,
    LAYOUTS,
    TERMINAL_PROFILE,
    Layout,
    decode,
    encode,
    key,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def tables(layout: Layout) -> st.SearchStrategy[np.ndarray]:
    """Some profiles of a layout."""
    shapes = st.tuples(st.integers(0, 9), st.just(layout.width))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=FINITE))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.entity)
@given(data=st.data())
def test_what_is_written_is_read(layout: Layout, data: st.DataObject) -> None:
    """Any finite profiles come back bit for bit, missing blobs between them as defaults."""
    rows = data.draw(tables(layout))
    blobs: list[bytes | None] = []
    for blob in encode(layout, rows):
        blobs += [None, blob]
    found, damaged = decode(layout, blobs)
    assert damaged == 0
    assert found.dtype == np.float32
    assert found[1::2].tobytes() == rows.tobytes()
    assert (found[::2] == layout.defaults).all()


@given(at=st.integers(0, HEADER_BYTES + 4 * CUSTOMER_PROFILE.width - 1), flip=st.integers(1, 255))
def test_an_altered_blob_is_damaged(at: int, flip: int) -> None:
    """A change of any byte, header or payload, makes the blob damaged and its row the defaults."""
    row = np.linspace(1, 2, CUSTOMER_PROFILE.width, dtype=np.float32)[np.newaxis]
    [blob] = encode(CUSTOMER_PROFILE, row)
    altered = bytearray(blob)
    altered[at] ^= flip
    found, damaged = decode(CUSTOMER_PROFILE, [blob, bytes(altered)])
    assert damaged == 1
    assert (found[0] == row[0]).all()
    assert (found[1] == CUSTOMER_PROFILE.defaults).all()


@given(st.lists(st.one_of(st.none(), st.binary(max_size=80)), max_size=8))
def test_foreign_blobs_are_damaged(blobs: list[bytes | None]) -> None:
    """Whatever lies under our key, a row of defaults comes out, and every blob is counted."""
    found, damaged = decode(TERMINAL_PROFILE, blobs)
    assert damaged == sum(blob is not None for blob in blobs)
    assert (found == TERMINAL_PROFILE.defaults).all()


def test_a_blob_of_the_other_entity_is_damaged() -> None:
    """A profile that was written for another layout is never taken for this one."""
    wide = Layout("terminal", 1, CUSTOMER_PROFILE.columns)
    blobs = encode(wide, wide.defaults[np.newaxis])
    assert decode(CUSTOMER_PROFILE, blobs)[1] == 1


def test_a_profile_that_is_not_finite_is_damaged() -> None:
    """NaN and infinity never get into a feature, even with a right checksum."""
    rows = np.tile(TERMINAL_PROFILE.defaults, (3, 1))
    rows[0, 1], rows[1, 2] = np.nan, np.inf
    found, damaged = decode(TERMINAL_PROFILE, encode(TERMINAL_PROFILE, rows))
    assert damaged == 2
    assert np.isfinite(found).all()


def test_keys_tell_layouts_and_entities_apart() -> None:
    """A key names the layout, so that a new layout never reads an old one's blobs."""
    assert key("customer", b"abc") == b"rw:" + CUSTOMER_PROFILE.id.encode() + b":c:abc"
    assert key("terminal", b"abc") == b"rw:" + TERMINAL_PROFILE.id.encode() + b":t:abc"
    assert CUSTOMER_PROFILE.id != TERMINAL_PROFILE.id


def test_the_layout_id_stands_for_its_meaning() -> None:
    """Another version, order or default of the columns gives another id."""
    columns = CUSTOMER_PROFILE.columns
    others = [
        Layout("customer", CUSTOMER_PROFILE.version + 1, columns),
        Layout("customer", CUSTOMER_PROFILE.version, columns[::-1]),
        Layout("customer", CUSTOMER_PROFILE.version, columns[:-1]),
    ]
    assert len({layout.id for layout in [CUSTOMER_PROFILE, *others]}) == 4


def test_blobs_are_small() -> None:
    """A blob stays within its limit and a matrix of another width is refused."""
    for layout in LAYOUTS.values():
        [blob] = encode(layout, layout.defaults[np.newaxis])
        assert len(blob) == HEADER_BYTES + 4 * layout.width <= BLOB_BYTES_MAX
        with pytest.raises(ValueError, match="columns"):
            encode(layout, np.zeros((1, layout.width + 1), np.float32))
