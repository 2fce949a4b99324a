"""Which records must be accepted, and by which code any other must be rejected.

Written from the schemas' documentation and the table of causes, in the order in which causes count:
size, framing, encoding, and then meaning. `transaction` and `label` give a record's fields or raise
`avro.Fault`.
"""

import re
from collections.abc import Mapping
from typing import Any

from verify.avro import Fault, Writers
from verify.evidence import Record
from verify.settings import Settings

Fields = dict[str, Any]

YEAR_2000_US = 946_684_800_000_000
AMOUNT_MAX = 10**12
TIME_LIMITS_US = 9 * 10**18, 10**17
"""How far append times, and event times after them, are taken at their word."""
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that no identifier has: those of control, and those that turn text around."""
MEANING = frozenset({"BAD_ID", "BAD_KEY", "BAD_AMOUNT", "BAD_CURRENCY", "BAD_TIME"})
"""Codes of the stage "validate"; all others are of "decode"."""

CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN
    BZD CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR
    FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY
    KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU
    MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON
    RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP
    TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA XBB
    XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XTS XUA XXX YER ZAR ZMW ZWG
    """.split()  # noqa: SIM905 -- a list of 178 literals would fill the page
)
"""ISO 4217, list one of 2026."""


def append_us(record: Record) -> int:
    """When a record was appended, by its timestamp."""
    limit = TIME_LIMITS_US[0]
    return min(max(1000 * record.timestamp_ms, -limit), limit)


def transaction(record: Record, writers: Writers, settings: Settings) -> Fields:
    """An accepted transaction's fields; raises Fault."""
    fields = _decoded(record, writers, settings)
    category, country = fields["merchant_category"], fields["country"]
    device = fields["device_id"]
    _need("BAD_ID", _are_ids(fields) and (device is None or _is_id(device)))
    _need("BAD_ID", category is None or _is_code(category, 4, "0", "9"))
    _need("BAD_ID", country is None or _is_code(country, 2, "A", "Z"))
    _need("BAD_KEY", record.key == fields["customer_id"].encode())
    _need("BAD_AMOUNT", 0 <= fields["amount_minor"] <= AMOUNT_MAX)
    _need("BAD_CURRENCY", fields["currency"] in CURRENCIES)
    _need("BAD_TIME", YEAR_2000_US <= fields["event_time"] <= _latest_us(record, settings))
    return fields


def label(record: Record, writers: Writers, settings: Settings) -> Fields:
    """An accepted label's fields; raises Fault."""
    fields = _decoded(record, writers, settings)
    _need("BAD_ID", _are_ids(fields))
    _need("BAD_KEY", record.key == fields["customer_id"].encode())
    times = YEAR_2000_US, fields["event_time"], fields["known_at"], _latest_us(record, settings)
    _need("BAD_TIME", list(times) == sorted(times))
    return fields


def _decoded(record: Record, writers: Writers, settings: Settings) -> Fields:
    value = record.value
    if value is None:
        raise Fault("NULL_VALUE")
    _need("EMPTY_VALUE", len(value) > 0)
    _need("VALUE_TOO_LARGE", len(value) <= settings.value_bytes_max)
    size = sum(len(name.encode("utf-8", "surrogateescape")) + len(its or b"")
               for name, its in record.headers)  # fmt: skip
    few = len(record.headers) <= settings.headers_max
    _need("HEADERS_TOO_LARGE", few and size <= settings.header_bytes_max)
    return writers.read(value)


def _latest_us(record: Record, settings: Settings) -> int:
    return append_us(record) + min(settings.future_us, TIME_LIMITS_US[1])


def _need(code: str, good: bool) -> None:  # noqa: FBT001 -- a condition, as assert takes
    if not good:
        raise Fault(code)


def _are_ids(fields: Mapping[str, Any]) -> bool:
    return all(_is_id(fields[f"{name}_id"]) for name in ("transaction", "customer", "terminal"))


def _is_id(text: str) -> bool:
    return 1 <= len(text.encode()) <= 64 and not UNSEEN.search(text)


def _is_code(text: str, size: int, low: str, high: str) -> bool:
    return len(text) == size and all(low <= letter <= high for letter in text)
