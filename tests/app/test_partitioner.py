"""murmur2 as Kafka's Java clients compute it."""

import pytest

from app.partitioner import murmur2, partition_of

# From Apache Kafka's own UtilsTest.testMurmur2, signed as Java prints them.
KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), KAFKA.items())
def test_murmur2_is_kafkas(key: bytes, expected: int) -> None:
    """The hash equals the one in Kafka's own tests."""
    assert murmur2(key) == expected % 2**32


def test_partition_is_never_negative() -> None:
    """The sign bit goes before the modulo, as in Java."""
    assert partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7
    assert all(0 <= partition_of(b"key-%d" % i, 5) < 5 for i in range(100))
