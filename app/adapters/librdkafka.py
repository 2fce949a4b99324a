"""librdkafka's public C API by ctypes, on the library that the confluent-kafka wheel carries.

Every C signature and struct that Riskwire uses stands here and nowhere else. `check()` refuses a
library outside the tested range or a struct of another layout (NativeTransportError), before any
pointer is used. Pointers are plain integers (`c_void_p`). Foreign error codes leave as
BrokerUnavailable or ConfigError.
"""

import ctypes as c
from collections.abc import Callable, Mapping
from typing import Any

import confluent_kafka.cimpl
import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import intrinsic

from app.errors import BrokerUnavailable, ConfigError, NativeTransportError

VERSION_TESTED = (0x02100000, 0x0210FFFF)  # 2.16.x: what the pinned wheel carries
MESSAGE_BYTES = 72

ERR_PARTITION_EOF, ERR_FATAL = -191, -150
ERR_NO_OFFSET, ERR_ASSIGN, ERR_REVOKE = -168, -175, -174
ERR_UNKNOWN_TOPIC = 3
OFFSET_INVALID, PARTITION_ANY = -1001, -1
PRODUCER, CONSUMER = 0, 1
MSG_COPY, MSG_PARTITION = 0x2, 0x8
EVENT_DR, EVENT_ERROR = 0x1, 0x8
VTYPE_RKT, VTYPE_PARTITION, VTYPE_VALUE, VTYPE_KEY = 2, 3, 4, 5
VTYPE_OPAQUE, VTYPE_MSGFLAGS, VTYPE_HEADERS = 6, 7, 10


class Message(c.Structure):
    """rd_kafka_message_t, the same for records read and written."""

    _fields_ = (
        ("err", c.c_int),
        ("rkt", c.c_void_p),
        ("partition", c.c_int32),
        ("payload", c.c_void_p),
        ("len", c.c_size_t),
        ("key", c.c_void_p),
        ("key_len", c.c_size_t),
        ("offset", c.c_int64),
        ("private", c.c_void_p),
    )


class TopicPartition(c.Structure):
    """rd_kafka_topic_partition_t."""

    _fields_ = (
        ("topic", c.c_char_p),
        ("partition", c.c_int32),
        ("offset", c.c_int64),
        ("metadata", c.c_void_p),
        ("metadata_size", c.c_size_t),
        ("opaque", c.c_void_p),
        ("err", c.c_int),
        ("private", c.c_void_p),
    )


class TopicPartitionList(c.Structure):
    """rd_kafka_topic_partition_list_t."""

    _fields_ = (("cnt", c.c_int), ("size", c.c_int), ("elems", c.POINTER(TopicPartition)))


class _MetadataTopic(c.Structure):
    _fields_ = (
        ("topic", c.c_char_p),
        ("partition_cnt", c.c_int),
        ("partitions", c.c_void_p),
        ("err", c.c_int),
    )


class Metadata(c.Structure):
    """struct rd_kafka_metadata."""

    _fields_ = (
        ("broker_cnt", c.c_int),
        ("brokers", c.c_void_p),
        ("topic_cnt", c.c_int),
        ("topics", c.POINTER(_MetadataTopic)),
        ("orig_broker_id", c.c_int32),
        ("orig_broker_name", c.c_char_p),
    )


_P, _I, _S, _Z, _L = c.c_void_p, c.c_int, c.c_char_p, c.c_size_t, c.POINTER(TopicPartitionList)
RebalanceCallback = c.CFUNCTYPE(None, _P, _I, _L, _P)
ErrorCallback = c.CFUNCTYPE(None, _P, _I, _S, _P)
LogCallback = c.CFUNCTYPE(None, _P, _I, _S, _S)

_library = c.CDLL(confluent_kafka.cimpl.__file__)  # resolves the symbols of its own librdkafka


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, "rd_kafka_" + name)
    function.restype, function.argtypes = result, arguments
    return function


version = _function("version", _I)
version_str = _function("version_str", _S)
err2str = _function("err2str", _S, _I)
conf_new = _function("conf_new", _P)
conf_destroy = _function("conf_destroy", None, _P)
conf_set = _function("conf_set", _I, _P, _S, _S, _S, _Z)
conf_set_events = _function("conf_set_events", None, _P, _I)
conf_set_rebalance_cb = _function("conf_set_rebalance_cb", None, _P, RebalanceCallback)
conf_set_error_cb = _function("conf_set_error_cb", None, _P, ErrorCallback)
conf_set_log_cb = _function("conf_set_log_cb", None, _P, LogCallback)
new = _function("new", _P, _I, _P, _S, _Z)
destroy = _function("destroy", None, _P)
fatal_error = _function("fatal_error", _I, _P, _S, _Z)

list_new = _function("topic_partition_list_new", _L, _I)
list_add = _function("topic_partition_list_add", _P, _L, _S, c.c_int32)
list_copy = _function("topic_partition_list_copy", _L, _L)
list_destroy = _function("topic_partition_list_destroy", None, _L)

poll_set_consumer = _function("poll_set_consumer", _I, _P)
queue_get_consumer = _function("queue_get_consumer", _P, _P)
queue_get_main = _function("queue_get_main", _P, _P)
queue_destroy = _function("queue_destroy", None, _P)
queue_poll = _function("queue_poll", _P, _P, _I)
subscribe = _function("subscribe", _I, _P, _L)
consume_batch_queue = _function("consume_batch_queue", c.c_ssize_t, _P, _I, _P, _Z)
consumer_close = _function("consumer_close", _I, _P)
rebalance_protocol = _function("rebalance_protocol", _S, _P)
assign = _function("assign", _I, _P, _L)
incremental_assign = _function("incremental_assign", _P, _P, _L)
incremental_unassign = _function("incremental_unassign", _P, _P, _L)
assignment_lost = _function("assignment_lost", _I, _P)
commit = _function("commit", _I, _P, _L, _I)
committed = _function("committed", _I, _P, _L, _I)
seek_partitions = _function("seek_partitions", _P, _P, _L, _I)
pause_partitions = _function("pause_partitions", _I, _P, _L)
resume_partitions = _function("resume_partitions", _I, _P, _L)
get_watermark_offsets = _function(
    "get_watermark_offsets", _I, _P, _S, c.c_int32, c.POINTER(c.c_int64), c.POINTER(c.c_int64)
)
query_watermark_offsets = _function(
    "query_watermark_offsets", _I, _P, _S, c.c_int32,
    c.POINTER(c.c_int64), c.POINTER(c.c_int64), _I,
)  # fmt: skip
metadata = _function("metadata", _I, _P, _I, _P, c.POINTER(c.POINTER(Metadata)), _I)
metadata_destroy = _function("metadata_destroy", None, c.POINTER(Metadata))

topic_new = _function("topic_new", _P, _P, _S, _P)
topic_destroy = _function("topic_destroy", None, _P)
topic_name = _function("topic_name", _S, _P)
produce_batch = _function("produce_batch", _I, _P, c.c_int32, _I, _P, _I)
outq_len = _function("outq_len", _I, _P)
purge = _function("purge", _I, _P, _I)
event_type = _function("event_type", _I, _P)
event_message_array = _function("event_message_array", _Z, _P, _P, _Z)
event_error = _function("event_error", _I, _P)
event_error_string = _function("event_error_string", _S, _P)
event_destroy = _function("event_destroy", None, _P)
init_transactions = _function("init_transactions", _P, _P, _I)
begin_transaction = _function("begin_transaction", _P, _P)
send_offsets_to_transaction = _function("send_offsets_to_transaction", _P, _P, _L, _P, _I)
commit_transaction = _function("commit_transaction", _P, _P, _I)
consumer_group_metadata = _function("consumer_group_metadata", _P, _P)
consumer_group_metadata_destroy = _function("consumer_group_metadata_destroy", None, _P)
error_string = _function("error_string", _S, _P)
error_code = _function("error_code", _I, _P)
error_destroy = _function("error_destroy", None, _P)

mock_cluster_new = _function("mock_cluster_new", _P, _P, _I)
mock_cluster_destroy = _function("mock_cluster_destroy", None, _P)
mock_cluster_bootstraps = _function("mock_cluster_bootstraps", _S, _P)
mock_topic_create = _function("mock_topic_create", _I, _P, _S, _I, _I)
mock_broker_set_down = _function("mock_broker_set_down", _I, _P, c.c_int32)
mock_broker_set_up = _function("mock_broker_set_up", _I, _P, c.c_int32)
mock_broker_set_rtt = _function("mock_broker_set_rtt", _I, _P, c.c_int32, _I)
mock_group_initial_rebalance_delay_ms = _function(
    "mock_group_initial_rebalance_delay_ms", None, _P, c.c_int32
)
# The function itself is variadic; its array form is not.
mock_push_request_errors_array = _function(
    "mock_push_request_errors_array", None, _P, c.c_int16, _Z, c.POINTER(c.c_int)
)


def _symbol(name: str, signature: Any) -> Any:
    """A C function for Numba code; by symbol, not by pointer: so code can be cached on disk."""
    llvmlite.binding.add_symbol(name, c.cast(getattr(_library, name), c.c_void_p).value)
    return types.ExternalFunction(name, signature)


message_destroy = _symbol("rd_kafka_message_destroy", types.void(types.uintp))
message_timestamp = _symbol("rd_kafka_message_timestamp", types.int64(types.uintp, types.uintp))
message_headers = _symbol("rd_kafka_message_headers", types.int32(types.uintp, types.uintp))
header_get_all = _symbol(
    "rd_kafka_header_get_all",
    types.int32(types.uintp, types.uintp, types.uintp, types.uintp, types.uintp),
)
header_add = _symbol(
    "rd_kafka_header_add",
    types.int32(types.uintp, types.uintp, types.intp, types.uintp, types.intp),
)
headers_new = _symbol("rd_kafka_headers_new", types.uintp(types.uintp))
headers_destroy = _symbol("rd_kafka_headers_destroy", types.void(types.uintp))
produceva = _symbol("rd_kafka_produceva", types.uintp(types.uintp, types.uintp, types.uintp))
MESSAGE = np.dtype(Message)
# rd_kafka_vu_t, one argument of produceva: its kind, and a union that begins with a pointer or a
# number (of four bytes or eight), or with a pointer and a size.
TAGGED = np.dtype(
    {
        "names": ("vtype", "value", "size"),
        "formats": (np.int32, np.uint64, np.uint64),
        "offsets": (0, 8, 16),
        "itemsize": 72,
    }
)


def _pointer(_typing: Any, _address: Any) -> Any:
    """Numba: an integer address as a void pointer, for `carray`."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.uintp), build


pointer: Any = intrinsic(_pointer)


def check() -> str:
    """The version of librdkafka; raises NativeTransportError outside what was tested."""
    found = version()
    name: str = version_str().decode()
    if not VERSION_TESTED[0] <= found <= VERSION_TESTED[1]:
        raise NativeTransportError(
            f"librdkafka {name} is outside the tested range 2.16.x; set RISKWIRE_TRANSPORT=objects"
        )
    fields: Mapping[str, Any] = MESSAGE.fields or {}
    offsets = [fields[name][1] for name in ("err", "partition", "payload", "offset", "private")]
    if MESSAGE.itemsize != MESSAGE_BYTES or offsets != [0, 16, 24, 56, 64]:
        raise NativeTransportError(
            "rd_kafka_message_t has another layout on this platform; set RISKWIRE_TRANSPORT=objects"
        )
    return name


def raise_for(error: int, doing: str) -> None:
    """Raise BrokerUnavailable for a rd_kafka_resp_err_t other than 0."""
    if error:
        raise BrokerUnavailable(f"{doing}: {err2str(error).decode()}")


def raise_for_object(error: int | None, doing: str) -> None:
    """Raise BrokerUnavailable for a rd_kafka_error_t* other than NULL; free it."""
    if error:
        text, code = error_string(error).decode(), error_code(error)
        error_destroy(error)
        raise BrokerUnavailable(f"{doing}: {text}", code)


def configuration(options: Mapping[str, str]) -> int:
    """A rd_kafka_conf_t* with these options; raises ConfigError that names the wrong one."""
    conf, text = conf_new(), c.create_string_buffer(512)
    for name, value in options.items():
        if conf_set(conf, name.encode(), str(value).encode(), text, len(text)):
            conf_destroy(conf)
            raise ConfigError(f"librdkafka option {name}: {text.value.decode()}")
    return int(conf)


def handle(kind: int, conf: int) -> int:
    """A rd_kafka_t*, which takes over the configuration; raises ConfigError."""
    text = c.create_string_buffer(512)
    client = new(kind, conf, text, len(text))
    if not client:
        conf_destroy(conf)
        raise ConfigError(f"librdkafka: {text.value.decode()}")
    return int(client)


def partition_list(offsets: Mapping[tuple[str, int], int]) -> Any:
    """A new topic-partition list with offsets; the caller destroys it."""
    partitions = list_new(len(offsets))
    for (topic, partition), offset in offsets.items():
        address = list_add(partitions, topic.encode(), partition)
        TopicPartition.from_address(address).offset = offset
    return partitions


def partition_offsets(partitions: Any) -> dict[tuple[str, int], int]:
    """The offsets of a topic-partition list."""
    elements = (partitions.contents.elems[i] for i in range(partitions.contents.cnt))
    return {(e.topic.decode(), e.partition): e.offset for e in elements}


def raise_for_elements(partitions: Any, doing: str) -> None:
    """Raise BrokerUnavailable for the first partition of a list that carries an error."""
    for i in range(partitions.contents.cnt):
        raise_for(partitions.contents.elems[i].err, doing)


def partition_count(client: int, topic: str, timeout_ms: int) -> int:
    """How many partitions a topic has, 0 if there is none; raises BrokerUnavailable."""
    found = c.POINTER(Metadata)()
    if not (rkt := topic_new(client, topic.encode(), None)):  # a name that no topic can have
        return 0
    try:
        raise_for(metadata(client, 0, rkt, c.byref(found), timeout_ms), "read metadata")
    finally:
        topic_destroy(rkt)
    try:
        if found.contents.topic_cnt == 0:
            return 0
        its = found.contents.topics[0]
        raise_for(0 if its.err == ERR_UNKNOWN_TOPIC else its.err, f"read metadata of {topic}")
        return int(its.partition_cnt)
    finally:
        metadata_destroy(found)


def fatal(client: int) -> str:
    """The text of a client's fatal error, empty if there is none."""
    text = c.create_string_buffer(512)
    return text.value.decode() if fatal_error(client, text, len(text)) else ""


LogLine = Callable[[int, str, str], None]


def log_callback(write: LogLine) -> Any:
    """Log lines of librdkafka to `write(syslog level, facility, text)`.

    The caller keeps the callback alive.
    """

    def called(_client: int, level: int, facility: bytes, text: bytes) -> None:
        write(level, facility.decode("ascii", "replace"), text.decode("utf-8", "replace"))

    return LogCallback(called)
