"""Which lines of librdkafka's log leave a transaction in doubt."""

import pytest

from app.adapters.transport import is_trouble

LOST = "Disconnected: connection closed by peer: receive 0 (after 600040ms in UP state)"


@pytest.mark.parametrize(
    ("facility", "text", "wanted"),
    [
        ("FAIL", f"[thrd:TxnCoordinator]: TxnCoordinator: {LOST}", True),
        ("FAIL", f"[thrd:GroupCoordinator]: GroupCoordinator: {LOST}", True),
        ("FAIL", f"[thrd:kafka:9092/1]: kafka:9092/1: {LOST}", True),
        ("REQTMOUT", "[thrd:TxnCoordinator]: TxnCoordinator: Timed out EndTxnRequest", True),
        ("FAIL", f"[thrd:kafka:9092/bootstrap]: kafka:9092/bootstrap: {LOST}", False),
        ("GETPID", "[thrd:main]: Failed to acquire transactional PID", False),
    ],
)
def test_what_is_trouble(facility: str, text: str, wanted: bool) -> None:  # noqa: FBT001 -- a case
    """Lost connections and requests are, but for that by which brokers were found at first."""
    assert is_trouble(facility, text) is wanted
