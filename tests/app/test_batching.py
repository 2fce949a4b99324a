"""The batch policy: quiet traffic never waits, busy traffic lingers, every batch has a cause."""

from app.batching import BatchPolicy, ByteBound


def _run(policy: BatchPolicy, records: int, every_us: int, batches: int = 200) -> BatchPolicy:
    now = 1_000_000
    for _ in range(batches):
        now += every_us
        policy.closed(records, policy.linger_ms(), now)
    return policy


def test_quiet_traffic_does_not_wait() -> None:
    """At 100 records a second a linger would bring nobody: there is none."""
    policy = _run(BatchPolicy(2048, 3), records=1, every_us=10_000)
    assert policy.linger_ms() == 0
    assert policy.closed_by["quiet"] == 200


def test_busy_traffic_lingers() -> None:
    """At 20,000 records a second the linger is paid."""
    policy = _run(BatchPolicy(2048, 3), records=20, every_us=1000)
    assert policy.linger_ms() == 3


def test_it_becomes_quiet_again() -> None:
    """After a burst the linger goes away."""
    policy = _run(BatchPolicy(2048, 3), records=200, every_us=1000)
    policy = _run(policy, records=1, every_us=500_000, batches=5)
    assert policy.linger_ms() == 0


def test_a_full_batch_is_closed_by_its_size() -> None:
    """The cause of a batch of records_max is its size, whatever the linger."""
    policy = BatchPolicy(64, 3)
    assert policy.closed(64, 3, 1) == "size"
    assert policy.closed(10, 3, 2) == "linger"
    assert policy.closed(10, 0, 3) == "quiet"


def asked(sizes: list[int], bytes_max: int, bound: ByteBound | None = None) -> list[int]:
    """What a batch asks for after its first record, of records of these sizes."""
    bound = bound or ByteBound(bytes_max)
    bound.begin()
    wanted, at, came = [], 1, sizes[:1]
    while more := bound.more(sum(came), max(came, default=0), 2048 - at):
        came = sizes[at : at + more]
        at += len(came)
        wanted.append(more)
        if len(came) < more:
            break
    return wanted


def test_small_records_are_asked_for_all_at_once() -> None:
    """The bound in bytes costs nothing where it does not matter."""
    assert asked([300] * 2048, 8 << 20) == [2047]


def test_a_batch_of_large_records_ends_by_bytes() -> None:
    """2,048 records of a megabyte: eight of them make a batch."""
    wanted = asked([1 << 20] * 2048, 8 << 20)
    assert 1 + sum(wanted) == 8


def test_sizes_that_were_met_are_expected_again() -> None:
    """After a large record no batch begins by asking for two thousand of them."""
    bound, sizes = ByteBound(8 << 20), [300, *[1 << 20] * 2047]
    assert asked(sizes, 0, bound)[0] == 2047
    assert 1 + sum(asked(sizes, 0, bound)) <= 17
    for _ in range(20):
        asked([300] * 2048, 0, bound)
    assert asked([300] * 2048, 0, bound) == [2047]


def test_a_record_beyond_the_bound_is_a_batch_of_its_own() -> None:
    """Nothing is too large to be taken in."""
    assert asked([9 << 20, 300], 8 << 20) == []
