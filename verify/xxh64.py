"""XXH64 with seed 0 as its specification says: of bytes, and of all rows of a matrix at once.

https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_64 = 0xFFFF_FFFF_FFFF_FFFF
_LANES = (_P1 + _P2) & _64, _P2, 0, -_P1 & _64


def hash_bytes(data: bytes) -> int:
    """The hash of a byte string."""
    words = len(data) // 8
    return int(_hash(struct.unpack_from(f"<{words}Q", data), data[8 * words :], len(data)))


def hash_rows(matrix: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The hash of each row's little-endian bytes, of a matrix with an even number of columns."""
    words = np.ascontiguousarray(matrix, "<f4").view("<u8").T
    found: NDArray[np.uint64] = _hash(list(words), b"", 4 * matrix.shape[1])
    return found


def _hash(words: Sequence[Any], tail: bytes, size: int) -> Any:
    """Of words of 64 bits, each an integer or an array of one for each row; bytes that remain."""
    first = 0
    if size < 32:
        total: Any = _P5
    else:
        lanes: list[Any] = list(_LANES)
        while first + 4 <= len(words):
            lanes = [_round(lane, words[first + k]) for k, lane in enumerate(lanes)]
            first += 4
        turned = (_turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True))
        total = 0
        for lane in turned:
            total = (total + lane) & _64
        for lane in lanes:
            total = ((total ^ _round(0, lane)) * _P1 + _P4) & _64
    total = (total + size) & _64
    for word in words[first:]:
        total = (_turn(total ^ _round(0, word), 27) * _P1 + _P4) & _64
    if len(tail) >= 4:
        total = (
            _turn(total ^ int.from_bytes(tail[:4], "little") * _P1 & _64, 23) * _P2 + _P3
        ) & _64
        tail = tail[4:]
    for byte in tail:
        total = _turn(total ^ byte * _P5 & _64, 11) * _P1 & _64
    total = (total ^ total >> 33) * _P2 & _64
    total = (total ^ total >> 29) * _P3 & _64
    return total ^ total >> 32


def _round(lane: Any, word: Any) -> Any:
    return _turn((lane + word * _P2) & _64, 31) * _P1 & _64


def _turn(word: Any, by: int) -> Any:
    return (word << by | word >> 64 - by) & _64
