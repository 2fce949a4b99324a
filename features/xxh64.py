"""XXH64 (seed 0) compiled by Numba: the hash of tokens and of feature vectors.

`hash_bytes` takes one byte string inside a buffer and is meant for other compiled loops: it checks
nothing. `vector_hash` takes a float32 matrix and hashes the little-endian bytes of each row; a
matrix of another kind is a ValueError. Both give the numbers of the xxhash package. Imports NumPy
and Numba only; the host must be little-endian, as all of Numba's platforms in use are. Source of
the algorithm: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

UInt8s = NDArray[np.uint8]
UInt64s = NDArray[np.uint64]

# Every constant and every index is a uint64: Numba turns int64 with uint64 into float64, and an
# unsigned index spares the test for a negative one, which lets LLVM read eight bytes as one word.
_P1 = np.uint64(11400714785074694791)
_P2 = np.uint64(14029467366897019727)
_P3 = np.uint64(1609587929392839161)
_P4 = np.uint64(9650029242287828579)
_P5 = np.uint64(2870177450012600261)
_P1_PLUS_P2 = np.uint64(6983438078262162902)
_MINUS_P1 = np.uint64(7046029288634856825)
_1, _4, _8, _32 = np.uint64(1), np.uint64(4), np.uint64(8), np.uint64(32)
_16, _24, _64 = np.uint64(16), np.uint64(24), np.uint64(64)


@njit(inline="always")
def _read32(data: UInt8s, at: np.uint64) -> np.uint64:
    word = np.uint64(0)
    for k in range(4):
        word |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
    return word


@njit(inline="always")
def _read64(data: UInt8s, at: np.uint64) -> np.uint64:
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
    return word


@njit(inline="always")
def _rotate(word: np.uint64, bits: int) -> np.uint64:
    return (word << np.uint64(bits)) | (word >> (_64 - np.uint64(bits)))


@njit(inline="always")
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(lane + word * _P2, 31) * _P1


@njit(inline="always")
def _merge(total: np.uint64, lane: np.uint64) -> np.uint64:
    return (total ^ _round(np.uint64(0), lane)) * _P1 + _P4


@njit(nogil=True, cache=True)
def hash_bytes(data: UInt8s, start: int, length: int) -> np.uint64:
    """XXH64 of `length` bytes (>= 0) of the uint8 buffer `data` from `start` on."""
    at = np.uint64(start)
    end = at + np.uint64(length)
    if length >= 32:
        a, b, c, d = _P1_PLUS_P2, _P2, np.uint64(0), _MINUS_P1
        while at + _32 <= end:
            a = _round(a, _read64(data, at))
            b = _round(b, _read64(data, at + _8))
            c = _round(c, _read64(data, at + _16))
            d = _round(d, _read64(data, at + _24))
            at += _32
        total = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        total = _merge(_merge(_merge(_merge(total, a), b), c), d)
    else:
        total = _P5
    total += np.uint64(length)
    while at + _8 <= end:
        total = _rotate(total ^ _round(np.uint64(0), _read64(data, at)), 27) * _P1 + _P4
        at += _8
    if at + _4 <= end:
        total = _rotate(total ^ (_read32(data, at) * _P1), 23) * _P2 + _P3
        at += _4
    while at < end:
        total = _rotate(total ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += _1
    total = (total ^ (total >> np.uint64(33))) * _P2
    total = (total ^ (total >> np.uint64(29))) * _P3
    return total ^ (total >> _32)


@njit(nogil=True, cache=True)
def _hash_rows(data: UInt8s, width: int, out: UInt64s) -> None:
    for i in range(len(out)):
        out[i] = hash_bytes(data, i * width, width)


def vector_hash(matrix: NDArray[np.float32]) -> UInt64s:
    """XXH64 of every row's little-endian bytes, uint64 (n,), for a float32 matrix (n, width).

    Raises ValueError unless the matrix is two-dimensional, float32 and C-contiguous.
    """
    if matrix.ndim != 2 or matrix.dtype != np.float32 or not matrix.flags.c_contiguous:
        msg = f"vector_hash needs a C-contiguous float32 matrix, not {matrix.dtype}{matrix.shape}"
        raise ValueError(msg)
    out = np.empty(len(matrix), np.uint64)
    _hash_rows(matrix.reshape(-1).view(np.uint8), 4 * matrix.shape[1], out)
    return out
