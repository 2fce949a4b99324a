"""What the linter refuses beyond what cannot resolve, and what it lets pass for good reasons."""

import json
import re
from typing import Any

import pytest

from app.errors import SchemaError
from app.schema_lint import BRANCHES_MAX, DOC_CHARACTERS_MAX, NAME_CHARACTERS_MAX, SYMBOLS_MAX
from app.writers import Writers
from tests.strategies import SCHEMA, enum, variant


def decimal(kind: str = "bytes", precision: Any = 10, **more: Any) -> dict[str, Any]:
    """A decimal as Avro writes it."""
    return {"type": kind, "logicalType": "decimal", "precision": precision, **more}


def fixed(size: int, **more: Any) -> dict[str, Any]:
    """A decimal of so many bytes."""
    return decimal("fixed", size=size, name="Amount", **more)


def letters(count: int) -> dict[str, Any]:
    """An enum of so many symbols."""
    return enum(*(f"S{k}" for k in range(count))) | {"name": "Letters"}


def branches(count: int) -> list[Any]:
    """A union of so many enums."""
    return [enum("A") | {"name": f"E{k}"} for k in range(count)]


def with_field(name: str, /, **changes: Any) -> str:
    """The bundled schema with something else said of a field; its own name among that."""
    raw = json.loads(SCHEMA.text)
    raw["fields"] = [each | (changes if each["name"] == name else {}) for each in raw["fields"]]
    return json.dumps(raw)


REFUSED = {
    **{
        f"secret field {name}": (variant(**{name: "string"}), f"field {name}: card verification")
        for name in (
            "cvv", "CVV2", "cardCvc", "card_cvv_code", "pin", "customerPin", "pin_block",
            "PINBlock", "track1", "track2Data", "track_data", "fullTrackData", "cardSecurityCode",
        )
    },
    "secret alias": (
        with_field("terminal_id", aliases=["track2"]),
        "field track2: card verification",
    ),
    "secret in a nested record": (
        variant(
            extra={"type": "record", "name": "Card", "fields": [{"name": "cvv", "type": "int"}]}
        ),
        "field cvv",
    ),
    "decimal of 17 bytes": (variant(extra=fixed(17)), "more than 16 bytes"),
    "decimal of 39 digits": (variant(extra=decimal(precision=39)), "38 digits"),
    "decimal in an array": (
        variant(extra={"type": "array", "items": decimal(precision=10_000)}),
        "38 digits",
    ),
    "enum too wide": (variant(extra=letters(SYMBOLS_MAX + 1)), "more than 256 symbols"),
    "symbol too long": (
        variant(extra=enum("S" * (NAME_CHARACTERS_MAX + 1)) | {"name": "Long"}),
        "symbol of too many",
    ),
    "union too wide": (variant(extra=branches(BRANCHES_MAX + 1)), "more than 16 branches"),
    "name too long": (variant(**{"x" * (NAME_CHARACTERS_MAX + 1): "int"}), "a name has more than"),
    "alias too long": (
        with_field("country", aliases=["y" * (NAME_CHARACTERS_MAX + 1)]),
        "a name has more than",
    ),
    "doc too long": (
        with_field("country", doc="d" * (DOC_CHARACTERS_MAX + 1)),
        "the doc of country has more than",
    ),
    "renamed by an alias": (
        with_field("device_id", name="device", aliases=["device_id"]),
        "device: renamed from device_id, and the reader knows the old name only",
    ),
    "amount in units": (with_field("amount_minor", unit="EUR"), "amount_minor: the writer's unit"),
    "amount of another scale": (with_field("amount_minor", scale=0), "the writer's scale is 0"),
    "amount as decimal": (variant(amount_minor=decimal(scale=2)), "decimal is not the reader's"),
    "amount as decimal over long": (
        variant(amount_minor=decimal("long", scale=2)), "decimal is not the reader's",
    ),
    "long promoted to double": (variant(amount_minor="double"), "the writer's double"),
    "long promoted to float": (variant(event_time="float"), "the writer's float"),
    "local time for time": (
        variant(event_time={"type": "long", "logicalType": "local-timestamp-micros"}),
        "local-timestamp-micros is not",
    ),
    "date for time": (
        variant(event_time={"type": "int", "logicalType": "date"}), "date is not the reader's",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """Each is a SchemaError that names the place and the reason."""
    text, why = REFUSED[case]
    with pytest.raises(SchemaError, match=re.escape(why)):
        Writers().add_id(1, text)


TAKEN = {
    **{
        f"field {name}": variant(**{name: "string"})
        for name in (
            "cvv_result", "cvvMatch", "pin_entered", "pinVerified", "track2_present", "pinpoint",
            "shipping", "track", "tracking_number", "spin", "company", "security_level",
        )
    },
    "decimal of 16 bytes": variant(extra=fixed(16, precision=38, scale=4)),
    "decimal of bytes": variant(extra=decimal(precision=38)),
    "widest enum": variant(extra=letters(SYMBOLS_MAX)),
    "widest union": variant(extra=branches(BRANCHES_MAX)),
    "longest name": variant(**{"x" * NAME_CHARACTERS_MAX: "int"}),
    "longest doc": with_field("country", doc="d" * DOC_CHARACTERS_MAX),
    "int promoted to long": variant(amount_minor="int"),
    "int promoted to long beside a time": variant(event_time=["int", "long"]),
    "symbol added without default": variant(channel=enum("ATM", "IMPLANT")),
    "symbols reordered": variant(channel=enum("CHIP", "ATM", "UNKNOWN")),
    "union reordered": variant(country=["string", "null"]),
    "alias of its own": with_field("device_id", aliases=["device"]),
    "default of another meaning": with_field("country", default=None),
    "unit of a field of its own": variant(
        extra={"type": "record", "name": "Rate", "fields": [
            {"name": "rate", "type": "double", "unit": "%"}]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case: str) -> None:
    """What is right passes: evolution as Avro allows it, and names that only sound alike."""
    Writers().add_id(1, TAKEN[case])
