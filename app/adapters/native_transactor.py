"""The native transactional producer (port `Transactor`), on librdkafka's C API.

The order of calls is the one that costs least: first until the send queue is empty, then the
offsets, then the commit. No delivery reports: a commit fails where a record has. Whatever goes
wrong between begin and the end of commit leaves as BrokerUnavailable: the transaction is in doubt,
and this producer must not be used again. That is so too where librdkafka reports success but has
lost a connection or a request meanwhile, and sent it again: the lost one may arrive at any time.
"""

import time
from collections.abc import Iterable, Mapping

from app.adapters import librdkafka as rk
from app.adapters.native_sink import NativeSink
from app.adapters.transport import BYTES_MAX, is_trouble, raise_if_moved
from app.errors import BrokerUnavailable
from app.records import Outbound


class NativeTransactor(NativeSink):
    """One incarnation of a transactional producer."""

    events = rk.EVENT_ERROR

    def __init__(
        self,
        options: Mapping[str, str],
        records_max: int,
        timeout_s: float,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """Create it and fence what used its transactional id before.

        Raises BrokerUnavailable, NativeTransportError or ConfigError.
        """
        self._trouble = ""
        super().__init__(options, records_max, bytes_max)
        self._timeout_s, self._timeout_ms = timeout_s, int(1000 * timeout_s)
        try:
            error = rk.init_transactions(self._client, self._timeout_ms)
            rk.raise_for_object(error, "begin to use a transactional id")
        except BrokerUnavailable:
            self.close(0)
            raise
        self._trouble = ""  # nothing was begun

    def _log_line(self, level: int, facility: str, text: str) -> None:
        super()._log_line(level, facility, text)
        if is_trouble(facility, text):
            self._trouble = self._trouble or text

    def is_troubled(self) -> bool:
        """See `Transactor.is_troubled`.

        librdkafka 2.16 may wait for ever for a group coordinator that it knew before it was away.
        """
        try:
            self._look()
        except BrokerUnavailable:
            return True
        return False

    def transact(
        self,
        outbounds: Iterable[Outbound],
        offsets: Mapping[tuple[str, int], int],
        group: int,
    ) -> None:
        """See `Transactor.transact`."""
        try:
            self._transact(outbounds, offsets, group)
        finally:
            rk.consumer_group_metadata_destroy(group)

    def _transact(
        self, outbounds: Iterable[Outbound], offsets: Mapping[tuple[str, int], int], group: int
    ) -> None:
        client, timeout_ms = self._client, self._timeout_ms
        rk.raise_for_object(rk.begin_transaction(client), "begin a transaction")
        end_s, sent = time.monotonic() + self._timeout_s, 0
        for outbound in outbounds:
            while not self.room(len(outbound)):
                self._wait(end_s)
            self._produce(outbound, 0)
            sent += outbound.nbytes
            if sent >= self._bytes_max:  # nothing says which of them are acknowledged
                self._empty(end_s)
                sent = 0
        self._empty(end_s)
        if offsets:
            partitions = rk.partition_list(offsets)
            error = rk.send_offsets_to_transaction(client, partitions, group, timeout_ms)
            rk.list_destroy(partitions)
            try:
                rk.raise_for_object(error, "send offsets to a transaction")
            except BrokerUnavailable as refused:
                self._look()  # raises if anything else was wrong
                raise_if_moved(refused)
                raise
        rk.raise_for_object(rk.commit_transaction(client, timeout_ms), "commit a transaction")
        self._look()

    def _topic(self, name: str) -> int:
        if name not in self._topics:
            rkt = super()._topic(name)
            # Into a topic that is not known yet, produce_batch registers partition -1.
            if not rk.partition_count(self._client, name, self._timeout_ms):
                raise BrokerUnavailable(f"topic {name} is missing: run `riskwire topics apply`")
            return rkt
        return self._topics[name]

    def _empty(self, end_s: float) -> None:
        while rk.outq_len(self._client):
            self._wait(end_s)

    def _wait(self, end_s: float) -> None:
        if time.monotonic() > end_s:
            raise BrokerUnavailable("a transaction's records are not acknowledged in time")
        self._look(1)

    def _look(self, wait_ms: int = 0) -> None:
        """Raise for any trouble that librdkafka reports."""
        while event := rk.queue_poll(self._queue, wait_ms):
            code, text = rk.event_error(event), rk.event_error_string(event)
            rk.event_destroy(event)
            if code:
                raise BrokerUnavailable(f"in a transaction: {(text or b'').decode()}")
            wait_ms = 0
        if self._trouble:
            raise BrokerUnavailable(f"in a transaction: {self._trouble}")
