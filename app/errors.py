"""Every error of Riskwire, named by whose fault it is.

Data faults are not here: a record that cannot be scored is a value (`records.Reject`) and ends as a
dead letter. What is raised is either the operator's (`ConfigError` and below: says what to do, exit
status 2) or the outside's (`Unavailable` and below: wait with back-off and try again).
Adapters translate their library's exceptions into these at the border.
"""

import enum


class RiskwireError(Exception):
    """Base of all errors that Riskwire raises on purpose."""


class ConfigError(RiskwireError):
    """A setting, a file or an installation is wrong; the message says what to do."""


class SchemaError(ConfigError):
    """An Avro schema cannot be used: recursive, unbounded, or not resolvable to the reader's."""


class ModelError(ConfigError):
    """A model is damaged, follows another feature contract, or its provider is missing."""


class NativeTransportError(ConfigError):
    """The native transport was not tested with this librdkafka or layout of its structs."""


class Unavailable(RiskwireError):  # noqa: N818 -- it tells a state, which ends by itself
    """Something outside does not answer now; the same call may succeed later."""


class StoreUnavailable(Unavailable):
    """Redis does not answer."""


class RegistryUnavailable(Unavailable):
    """The schema registry does not answer."""


class BrokerUnavailable(Unavailable):
    """Kafka does not answer, or a record could not be delivered."""

    def __init__(self, text: str, code: int = 0) -> None:
        """`code` is Kafka's own for the error, 0 where it gave none."""
        super().__init__(text)
        self.code = code


class GroupMoved(BrokerUnavailable):
    """Kafka refuses offsets: the group has rebalanced, and this member has not heard of it yet."""


class ScoringError(RiskwireError):
    """The model gave something that is no score (wrong shape, NaN, outside 0 to 1)."""


class RejectCode(enum.StrEnum):
    """The closed list of causes for which a record becomes a dead letter."""

    NULL_VALUE = "NULL_VALUE"
    EMPTY_VALUE = "EMPTY_VALUE"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    BAD_MAGIC = "BAD_MAGIC"
    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA"
    TRUNCATED = "TRUNCATED"
    TRAILING_BYTES = "TRAILING_BYTES"
    BAD_LENGTH = "BAD_LENGTH"
    BAD_VARINT = "BAD_VARINT"
    BAD_BRANCH = "BAD_BRANCH"
    BAD_BOOLEAN = "BAD_BOOLEAN"
    BAD_UTF8 = "BAD_UTF8"
    BAD_ID = "BAD_ID"
    BAD_KEY = "BAD_KEY"
    BAD_AMOUNT = "BAD_AMOUNT"
    BAD_CURRENCY = "BAD_CURRENCY"
    BAD_TIME = "BAD_TIME"
    UNDECODABLE = "UNDECODABLE"
    REFUSED_SCHEMA = "REFUSED_SCHEMA"


SEMANTIC = frozenset(
    {
        RejectCode.BAD_ID,
        RejectCode.BAD_KEY,
        RejectCode.BAD_AMOUNT,
        RejectCode.BAD_CURRENCY,
        RejectCode.BAD_TIME,
    }
)
"""Codes of the stage "validate": the value decodes but makes no sense. All others are "decode"."""

REJECT_MESSAGES: dict[RejectCode, str] = {
    RejectCode.NULL_VALUE: "the record has no value; transactions are never tombstones",
    RejectCode.EMPTY_VALUE: "the value has no bytes",
    RejectCode.VALUE_TOO_LARGE: "the value is longer than the limit (RISKWIRE_VALUE_BYTES_MAX)",
    RejectCode.HEADERS_TOO_LARGE: "more headers or header bytes than the limits allow",
    RejectCode.BAD_MAGIC: (
        "neither Confluent wire format (00) nor Avro single-object encoding (C3 01)"
    ),
    RejectCode.UNKNOWN_SCHEMA: "no writer schema is known for this id or fingerprint",
    RejectCode.TRUNCATED: "the value ends before its last field",
    RejectCode.TRAILING_BYTES: "bytes follow after the last field",
    RejectCode.BAD_LENGTH: "a string, bytes or block length is negative or beyond the value's end",
    RejectCode.BAD_VARINT: "an integer has too many bytes or is out of its type's range",
    RejectCode.BAD_BRANCH: "a union or enum index names no branch of the writer schema",
    RejectCode.BAD_BOOLEAN: "a boolean is neither 0 nor 1",
    RejectCode.BAD_UTF8: "a string is not valid UTF-8",
    RejectCode.BAD_ID: "an identifier or code is empty, too long or has control characters",
    RejectCode.BAD_KEY: "the record's key is not the customer_id of its value",
    RejectCode.BAD_AMOUNT: "amount_minor is negative or above 10^12",
    RejectCode.BAD_CURRENCY: "currency is not an ISO 4217 code",
    RejectCode.BAD_TIME: "event_time is before 2000 or too far after the record's append time",
    RejectCode.UNDECODABLE: "the value does not decode by its writer schema",
    RejectCode.REFUSED_SCHEMA: "the registry's schema of this id is unsafe or does not resolve;"
    " the log and `riskwire schemas lint` say why",
}
