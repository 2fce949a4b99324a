"""The readable twin of `native_transactor`, on confluent-kafka's own calls (port `Transactor`)."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from app.adapters.confluent import ObjectSink, call
from app.adapters.transport import BYTES_MAX, is_trouble, raise_if_moved
from app.errors import BrokerUnavailable
from app.records import Outbound


class _Listening(logging.LoggerAdapter[logging.Logger]):
    """librdkafka's log, of which we are told what is trouble."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        super().__init__(logging.getLogger("riskwire.librdkafka"))
        self._lost = lost

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(level, msg, *args, **kwargs)
        facility, _, text = args
        if is_trouble(str(facility), str(text)):
            self._lost(str(text))


class ObjectTransactor(ObjectSink):
    """One incarnation of a transactional producer."""

    def __init__(
        self,
        options: Mapping[str, str],
        records_max: int,
        timeout_s: float,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """Create it and fence what used its transactional id before.

        Raises BrokerUnavailable or ConfigError.
        """
        super().__init__({**options, "logger": _Listening(self._lost)}, records_max, bytes_max)
        self._timeout_s = timeout_s
        call("begin to use a transactional id", self._producer.init_transactions, timeout_s)
        self._producer.poll(0)
        self._failure = ""  # nothing was begun

    def is_troubled(self) -> bool:
        """See `Transactor.is_troubled`."""
        self._producer.poll(0)
        return bool(self._failure)

    def transact(
        self, outbounds: Iterable[Outbound], offsets: Mapping[tuple[str, int], int], group: object
    ) -> None:
        """See `Transactor.transact`."""
        producer, timeout_s = self._producer, self._timeout_s
        call("begin a transaction", producer.begin_transaction)
        end_s = time.monotonic() + timeout_s
        for ticket, outbound in enumerate(outbounds, 1):
            while not self.room(len(outbound)):
                self._wait(end_s)
            self.send(outbound, ticket)
        while len(producer):
            self._wait(end_s)
        if offsets:
            its = [TopicPartition(*at, offset) for at, offset in offsets.items()]
            send = producer.send_offsets_to_transaction
            try:
                call("send offsets to a transaction", send, its, group, timeout_s)
            except BrokerUnavailable as error:
                self.poll(0)  # raises if anything else was wrong
                raise_if_moved(error)
                raise
        call("commit a transaction", producer.commit_transaction, timeout_s)
        self.poll(0)

    def _wait(self, end_s: float) -> None:
        if time.monotonic() > end_s:
            raise BrokerUnavailable("a transaction's records are not acknowledged in time")
        self.poll(1)

    def _lost(self, text: str) -> None:
        self._failure = self._failure or f"in a transaction: {text}"

    def _error(self, error: KafkaError) -> None:
        # Any trouble in a transaction leaves it in doubt, also where the commit reports success.
        self._lost(error.str())
