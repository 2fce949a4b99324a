"""Where Kafka's Java clients put a key: murmur2, sign bit off, modulo the partition count.

librdkafka's `murmur2_random` does the same; its default, CRC32, does not. Pure.
"""

from typing import Final

MASK: Final = 0xFFFFFFFF
SEED: Final = 0x9747B28C
MULTIPLIER: Final = 0x5BD1E995
SHIFT: Final = 24


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that a record with this key belongs to."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Austin Appleby's MurmurHash2 with Kafka's seed, as an unsigned 32-bit integer."""
    h = SEED ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * MULTIPLIER & MASK
        k = (k ^ k >> SHIFT) * MULTIPLIER & MASK
        h = h * MULTIPLIER & MASK ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * MULTIPLIER & MASK
    h = (h ^ h >> 13) * MULTIPLIER & MASK
    return h ^ h >> 15
