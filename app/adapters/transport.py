"""Which transport: `native` on librdkafka's C API, or `objects` on confluent-kafka's own calls.

Both are behind the ports `Source` and `Sink`, with the same options. The native one is the default;
where it refuses to load, the other one is used and the log says so. Neither is imported before it
is chosen: the native one fails to import where the library is another.
"""
# ruff: noqa: PLC0415 -- see above

from collections.abc import Callable, Mapping

import structlog

from app.config import Settings
from app.errors import BrokerUnavailable, ConfigError, GroupMoved, NativeTransportError
from app.ports import RebalanceListener, Sink, Source, Transactor

log = structlog.get_logger("riskwire.kafka")

CONSUMER_OPTIONS: Mapping[str, str] = {
    "enable.auto.commit": "false",
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": "10",
    "fetch.queue.backoff.ms": "5",
    "session.timeout.ms": "10000",
    "check.crcs": "true",
    "enable.partition.eof": "true",
    "heartbeat.interval.ms": "500",  # a rebalance is heard of by then, and takes two or three
}
PRODUCER_OPTIONS: Mapping[str, str] = {
    "acks": "all",
    "enable.idempotence": "true",
    "partitioner": "murmur2_random",
    "linger.ms": "1",
    "batch.num.messages": "20000",
    "message.timeout.ms": "0",  # a broker that is away is waited for, not given up on
}
# What the guarantee rests on; options that are passed through may not change it.
FIXED = (
    "enable.auto.commit",
    "enable.auto.offset.store",
    "acks",
    "enable.idempotence",
    "partitioner",
    "delivery.report.only.error",
    "transactional.id",
    "transaction.timeout.ms",
    "isolation.level",
)
BYTES_MAX = 1 << 26
"""Outbound bytes in flight, where nobody says."""
FETCH_BYTES_MIN = 1 << 20
TRANSACTION_MS = 10_000
"""A transaction that is not over by then is the broker's to abort."""
_GROUP_MOVED = (22, 27)
"""Kafka's codes: another generation of the group, and a rebalance that is under way."""
_TROUBLE = ("FAIL", "REQTMOUT")
_QUEUE_KBYTES = 2_097_151  # librdkafka's own limit, far above what BYTES_MAX and a batch come to


def queue_limits(records_max: int) -> dict[str, str]:
    """Options of a send queue that is never full while `room` is asked first: order holds."""
    return {
        "queue.buffering.max.messages": str(2 * records_max),
        "queue.buffering.max.kbytes": str(_QUEUE_KBYTES),
    }


def raise_if_moved(refused: BrokerUnavailable) -> None:
    """Raise GroupMoved if that is why Kafka refused a transaction's offsets."""
    if refused.code in _GROUP_MOVED:
        raise GroupMoved(str(refused), refused.code) from refused


def choose_transport(settings: Settings) -> str:
    """The wanted transport, or `objects` where the native one refuses; says so in the log."""
    if settings.transport == "native":
        try:
            from app.adapters import librdkafka

            librdkafka.check()
        except (NativeTransportError, OSError, AttributeError) as error:  # or a symbol is missing
            log.warning("native transport refused; using objects", reason=str(error))
            return "objects"
    return settings.transport


def open_source(settings: Settings, transport: str, listener: RebalanceListener) -> Source:
    """The consumer of a transport, of transactions with their labels; raises ConfigError."""
    given = {**settings.client_options(), **settings.consumer_options}
    _refuse_fixed(given)
    limits = {
        "queued.max.messages.kbytes": str(settings.queue_bytes_max >> 10),
        # One answer of a broker comes on top of that.
        "fetch.max.bytes": str(max(settings.queue_bytes_max // 4, FETCH_BYTES_MIN)),
    }
    options = {**CONSUMER_OPTIONS, **limits, "group.id": settings.group_id, **given}
    if settings.static_membership:
        options["group.instance.id"] = f"{settings.group_id}.{settings.worker_name()}"
    topics, companions = [settings.topic("transactions")], [settings.topic("labels")]
    make = _twins(transport)[0]
    bytes_max = settings.queue_bytes_max // settings.queue_batches_max
    return make(options, topics, listener, settings.batch_records_max, companions, bytes_max)


def open_sink(settings: Settings, transport: str) -> Sink:
    """The producer of a transport; raises ConfigError."""
    bounds = settings.inflight_records_max, settings.inflight_bytes_max
    return _twins(transport)[1](_producer_options(settings), *bounds)


def open_transactor(settings: Settings, transport: str, transactional_id: str) -> Transactor:
    """A transactional producer, which fences its id; raises BrokerUnavailable or ConfigError."""
    options = {
        **_producer_options(settings),
        "transactional.id": transactional_id,
        "transaction.timeout.ms": str(TRANSACTION_MS),
        "message.timeout.ms": str(TRANSACTION_MS),
        "log_level": "6",  # else trouble is not heard of
        "log.connection.close": "true",
    }
    bounds = settings.inflight_records_max, TRANSACTION_MS / 1000, settings.inflight_bytes_max
    arguments = (options, *bounds)
    if transport == "native":
        from app.adapters.native_transactor import NativeTransactor

        return NativeTransactor(*arguments)
    from app.adapters.confluent_transactor import ObjectTransactor

    return ObjectTransactor(*arguments)


def _producer_options(settings: Settings) -> dict[str, str]:
    given = {**settings.client_options(), **settings.producer_options}
    _refuse_fixed(given)
    limit = {"message.max.bytes": str(settings.message_bytes_max)}
    return {**PRODUCER_OPTIONS, **limit, **given}


def is_trouble(facility: str, text: str) -> bool:
    """Whether a line of librdkafka's log is about a connection or a request that is lost.

    It sends a lost request again by itself, a commit too, and tells of it by no event (2.16; 2.11
    did). The connection by which brokers were found at first carries nothing of a transaction, and
    brokers close it when it idles: that is none.
    """
    return facility in _TROUBLE and "/bootstrap]" not in text


def _refuse_fixed(given: Mapping[str, str]) -> None:
    if fixed := sorted(set(FIXED) & given.keys()):
        raise ConfigError(
            f"the options {', '.join(fixed)} are Riskwire's own: nothing is lost because of them."
            " Take them out of RISKWIRE_KAFKA_OPTIONS, _CONSUMER_OPTIONS and _PRODUCER_OPTIONS"
        )


def _twins(transport: str) -> tuple[Callable[..., Source], Callable[..., Sink]]:
    if transport == "native":
        from app.adapters.native_sink import NativeSink
        from app.adapters.native_source import NativeSource

        return NativeSource, NativeSink
    from app.adapters.confluent import ObjectSink, ObjectSource

    return ObjectSource, ObjectSink
