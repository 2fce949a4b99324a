"""The hash of vectors and tokens against the xxhash package."""

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from features.xxh64 import hash_bytes, vector_hash


@given(st.binary(max_size=300), st.integers(0, 40))
def test_bytes_hash_as_the_reference_does(data: bytes, start: int) -> None:
    """Any byte string, wherever it lies in its buffer, has the reference's XXH64 of seed 0."""
    buffer = np.frombuffer(b"\xee" * start + data + b"\xee" * 9, np.uint8)
    assert hash_bytes(buffer, start, len(data)) == xxhash.xxh64_intdigest(data)


def test_every_length_up_to_three_stripes() -> None:
    """Each way through the loops of 32, 8, 4 and 1 bytes gives the reference's hash."""
    data = np.arange(256, dtype=np.uint8)
    for length in range(100):
        expected = xxhash.xxh64_intdigest(data[:length].tobytes())
        assert hash_bytes(data, 0, length) == expected, length


@pytest.mark.parametrize("width", [0, 1, 7, 8, 20, 25, 64])
def test_vectors_hash_as_their_bytes(width: int) -> None:
    """A row's hash is that of its little-endian float32 bytes, NaN and -0.0 included."""
    matrix = np.random.default_rng(1).normal(size=(17, width)).astype(np.float32)
    if width:
        matrix[3, 0], matrix[4, -1] = np.nan, -0.0
    expected = [xxhash.xxh64_intdigest(row.astype("<f4").tobytes()) for row in matrix]
    assert vector_hash(matrix).tolist() == expected


def test_no_rows_have_no_hashes() -> None:
    """An empty batch gives an empty uint64 column."""
    found = vector_hash(np.empty((0, 25), np.float32))
    assert found.dtype == np.uint64
    assert found.shape == (0,)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 3)),
        np.zeros(3, np.float32),
        np.zeros((3, 4), np.float32)[:, ::2],
        np.zeros((3, 4), np.float32).T,
    ],
)
def test_other_matrices_are_refused(matrix: np.ndarray) -> None:
    """A matrix whose bytes are not the rows' float32 bytes is refused, never hashed wrongly."""
    with pytest.raises(ValueError, match="C-contiguous float32"):
        vector_hash(matrix)
