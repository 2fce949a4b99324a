"""The batch policy: quiet traffic never waits, busy traffic lingers, every batch has a cause."""

from app.batching import BatchPolicy


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
