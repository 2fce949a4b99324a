"""What a writer schema may not be, whoever wrote it: checked before a plan is made of it.

In: a schema parsed by fastavro. Out: its named types, or SchemaError with the place and the reason.
Refused is what could cost more than its bytes (recursion, items of no byte, many or deep types),
what is too large to be meant well (names, symbols, branches, docs), decimals of more than 16 bytes,
and fields of what must never be sent (CVV, PIN, track data: PCI DSS 3.3.1). Pure.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from app.errors import SchemaError

FIELDS_MAX = 64
DEPTH_MAX = 8
NODES_MAX = 1024
NAME_CHARACTERS_MAX = 256
DOC_CHARACTERS_MAX = 4096
SYMBOLS_MAX = 256
BRANCHES_MAX = 16
FIXED_BYTES_MAX = 1 << 31
DECIMAL_BYTES_MAX = 16
DECIMAL_DIGITS_MAX = 38
"""So many fit into 16 bytes."""

SECRETS = frozenset({"cvv", "cvv2", "cvc", "cvc2", "cav2", "csc", "pin", "track1", "track2"})
SECRET_PAIRS = frozenset(
    {("pin", "block"), ("track", "data"), ("track", "1"), ("track", "2"), ("security", "code")}
)
ABOUT = frozenset(
    {"result", "match", "matched", "status", "response", "present", "entered", "verified", "check"}
)
"""Last words of fields that only say how a check of such a secret went: these may be sent."""

_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_WORDS = re.compile(r"[A-Z]+(?![a-z])\d?|[A-Z]?[a-z]+\d?|\d+")


def lint(writer: Any) -> dict[str, Any]:
    """Refuse a schema that is unsafe to decode by; its named types. Raises SchemaError."""
    walk = _Lint()
    walk.zero_bytes(writer, 0)
    return walk.names


def kind_of(schema: Any) -> str:
    """The kind of a type, or the name of a named one."""
    if isinstance(schema, list):
        return "union"
    return str(schema["type"]) if isinstance(schema, dict) else str(schema)


@dataclass(slots=True)
class _Lint:
    """Walks a schema as if every named type were written out; collects the named types."""

    names: dict[str, Any] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)
    nodes: int = 0

    def zero_bytes(self, schema: Any, depth: int) -> bool:
        """Refuse what is unsafe; whether a value of the type may take no byte at all."""
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise SchemaError(f"the schema has more than {NODES_MAX} types when written out")
        if isinstance(schema, str) and schema in self.names:
            schema = self.names[schema]
        kind = kind_of(schema)
        if isinstance(schema, dict):
            _check_words(schema)
        if kind in ("union", "array", "map", "record"):
            if depth == DEPTH_MAX:
                raise SchemaError(f"types are nested deeper than {DEPTH_MAX}")
            return bool(getattr(self, f"_{kind}")(schema, depth + 1))
        if kind == "enum":
            self._enum(schema)
        elif kind == "fixed":
            return self._fixed(schema)
        elif kind not in _PRIMITIVES:
            raise SchemaError(f"type {kind!r} is not known, or not yet complete where it is used")
        elif kind == "bytes":
            _check_decimal(schema, DECIMAL_BYTES_MAX)
        return kind == "null"

    def _enum(self, schema: Any) -> None:
        self.names[schema["name"]] = schema
        symbols = schema["symbols"]
        if len(symbols) > SYMBOLS_MAX:
            raise SchemaError(f"enum {schema['name']} has more than {SYMBOLS_MAX} symbols")
        if any(len(symbol) > NAME_CHARACTERS_MAX for symbol in symbols):
            raise SchemaError(f"enum {schema['name']} has a symbol of too many characters")

    def _fixed(self, schema: Any) -> bool:
        self.names[schema["name"]] = schema
        size = schema["size"]
        if type(size) is not int or not 0 <= size < FIXED_BYTES_MAX:
            raise SchemaError(f"fixed {schema['name']} has no usable size: {size!r}")
        _check_decimal(schema, size)
        return size == 0

    def _union(self, schema: Any, depth: int) -> bool:
        if not schema or any(isinstance(branch, list) for branch in schema):
            raise SchemaError("a union is empty or lies directly in a union")
        if len(schema) > BRANCHES_MAX:
            raise SchemaError(f"a union has more than {BRANCHES_MAX} branches")
        for branch in schema:
            self.zero_bytes(branch, depth)
        return False

    def _array(self, schema: Any, depth: int) -> bool:
        if self.zero_bytes(schema["items"], depth):
            raise SchemaError("array items may take zero bytes: a count alone could exhaust memory")
        return False

    def _map(self, schema: Any, depth: int) -> bool:
        if self.zero_bytes(schema["values"], depth):
            raise SchemaError("map values may take zero bytes")
        return False

    def _record(self, schema: Any, depth: int) -> bool:
        name, fields = schema["name"], schema["fields"]
        if name in self.inside:
            raise SchemaError(f"record {name} is recursive")
        if len(fields) > FIELDS_MAX:
            raise SchemaError(f"record {name} has more than {FIELDS_MAX} fields")
        if len({each["name"] for each in fields}) < len(fields):
            raise SchemaError(f"record {name} has two fields of one name")
        self.names[name] = schema
        self.inside.append(name)
        for each in fields:
            _check_words(each)
            _check_secret(each)
        empty = [self.zero_bytes(each["type"], depth) for each in fields]
        self.inside.pop()
        return all(empty)


def _check_words(node: Any) -> None:
    """Refuse names, aliases and docs of absurd length; messages carry the begin of a name."""
    names = [node.get("name", ""), *node.get("aliases", ())]
    if long := [name for name in names if len(str(name)) > NAME_CHARACTERS_MAX]:
        raise SchemaError(f"a name has more than {NAME_CHARACTERS_MAX} characters: {long[0]:.40}")
    if len(str(node.get("doc", ""))) > DOC_CHARACTERS_MAX:
        raise SchemaError(f"the doc of {names[0]} has more than {DOC_CHARACTERS_MAX} characters")


def _check_secret(node: Any) -> None:
    for name in (node["name"], *node.get("aliases", ())):
        words = [word.lower() for word in _WORDS.findall(name)]
        pairs = set(pairwise(words))
        if (SECRETS & {*words} or SECRET_PAIRS & pairs) and words[-1] not in ABOUT:
            raise SchemaError(
                f"field {name}: card verification codes, PINs and track data must never be sent"
                " (PCI DSS 3.3.1); take it out of the producer"
            )


def _check_decimal(schema: Any, size: int) -> None:
    if not isinstance(schema, dict) or schema.get("logicalType") != "decimal":
        return
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if size > DECIMAL_BYTES_MAX or type(precision) is not int or precision > DECIMAL_DIGITS_MAX:
        raise SchemaError(
            f"a decimal has more than {DECIMAL_BYTES_MAX} bytes or {DECIMAL_DIGITS_MAX} digits"
        )
    if type(scale) is not int or not 0 <= scale <= precision:
        raise SchemaError(f"a decimal of {precision} digits has a scale of {scale!r}")
