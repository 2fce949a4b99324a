"""Avro read strictly by its schema, in plain Python: no library, no resolution but by name.

`Schema` compiles a schema's JSON text into closures once; `read` gives a value as dicts, lists and
numbers, or raises Fault with the cause by which a record would have to be rejected. Strict means:
numbers in their shortest form and range, UTF-8, indexes and lengths within bounds, nothing left
over. `Writers` finds the schema that a record was framed with.
"""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

Read = Callable[[bytes, int], tuple[Any, int]]
"""Of the bytes and a place: the value there, and the place after it."""

_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_KEPT = ("name", "type", "fields", "symbols", "items", "values", "size")
_EMPTY_CRC = 0xC15D213AA4D7A795


class Fault(Exception):  # noqa: N818 -- no error: a verdict on a record
    """Why a record is to be rejected."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Unusable(Exception):  # noqa: N818 -- no error: a verdict on a schema
    """No record can be read by this schema."""


class Schema:
    """A schema, compiled."""

    def __init__(self, text: str) -> None:
        """Raise Unusable for what is no schema, or a recursive one."""
        try:
            self.json = json.loads(text)
            self._read = _compiled(self.json, {}, "")
            canonical = json.dumps(
                _canonical(self.json, ""), separators=(",", ":"), ensure_ascii=False
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unusable(str(error)) from None
        self.fingerprint = crc64(canonical.encode())

    def read(self, data: bytes, at: int) -> Any:
        """The value that begins there and ends with the data; raises Fault."""
        value, end = self._read(data, at)
        if end != len(data):
            raise Fault("TRAILING_BYTES")
        return value


class Writers:
    """The schemas that records of a topic are written with: the bundled one, and a registry's."""

    def __init__(self, bundled: Schema, registry: Callable[[int], str | None]) -> None:
        """`registry` gives the text of an id's Avro schema, None where there is none."""
        self.bundled, self._registry = bundled, registry
        self._known: dict[int, Schema | None] = {}

    def read(self, data: bytes) -> dict[str, Any]:
        """The bundled schema's fields of a framed value; raises Fault."""
        if data[0] == 0:
            if len(data) < 5:
                raise Fault("TRUNCATED")
            writer, at = self._of(int.from_bytes(data[1:5], "big", signed=True)), 5
        elif data[:2] in (b"\xc3\x01", b"\xc3"):
            if len(data) < 10:
                raise Fault("TRUNCATED")
            same = int.from_bytes(data[2:10], "little") == self.bundled.fingerprint
            writer, at = self.bundled if same else None, 10
        else:
            raise Fault("BAD_MAGIC")
        if writer is None:
            raise Fault("UNKNOWN_SCHEMA")
        value = writer.read(data, at)
        if writer is not self.bundled:
            value = _projected(value, writer.json, self.bundled.json)
        fields: dict[str, Any] = value
        return fields

    def _of(self, schema_id: int) -> Schema | None:
        if schema_id not in self._known:
            text = self._registry(schema_id) if schema_id >= 0 else None
            try:
                found = None if text is None else Schema(text)
                if found is not None and found.fingerprint == self.bundled.fingerprint:
                    found = self.bundled
                elif found is not None:
                    _check_fields(found.json, self.bundled.json)
            except Unusable:
                found = None
            self._known[schema_id] = found
        return self._known[schema_id]


def _check_fields(writer: Any, reader: Any) -> None:
    """Raise Unusable unless the writer has every field that has no default."""
    if not isinstance(writer, dict) or writer.get("type") != "record":
        raise Unusable("no record")
    theirs = {each["name"] for each in writer["fields"]}
    if any(f["name"] not in theirs and "default" not in f for f in reader["fields"]):
        raise Unusable("a field is missing")


def _projected(value: Mapping[str, Any], writer: Any, reader: Any) -> dict[str, Any]:
    """The reader's fields of another writer's value: by name, enum symbols and defaults too."""
    theirs = {each["name"] for each in writer["fields"]}
    found: dict[str, Any] = {}
    for each in reader["fields"]:
        its = value[each["name"]] if each["name"] in theirs else each["default"]
        kind = each["type"]
        if isinstance(kind, dict) and kind["type"] == "enum" and its not in kind["symbols"]:
            if "default" not in kind:
                raise Fault("BAD_BRANCH")
            its = kind["default"]
        if its is None and not isinstance(kind, list):
            raise Fault("BAD_BRANCH")
        found[each["name"]] = its
    return found


def crc64(data: bytes) -> int:
    """CRC-64-AVRO, Avro's fingerprint."""
    crc = _EMPTY_CRC
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc


def _table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_EMPTY_CRC if crc & 1 else 0)  # noqa: PLW2901 -- the register
        table.append(crc)
    return table


_TABLE = _table()


def _canonical(schema: Any, space: str) -> Any:
    """Avro's parsing canonical form, as JSON."""
    if isinstance(schema, str):
        return (
            schema if schema in _PRIMITIVES or "." in schema or not space else f"{space}.{schema}"
        )
    if isinstance(schema, list):
        return [_canonical(branch, space) for branch in schema]
    kind = schema["type"]
    if kind in _PRIMITIVES:
        return kind
    found = {name: schema[name] for name in _KEPT if name in schema}
    if "name" in schema:
        found["name"], space = _fullname(schema, space)
    if "fields" in schema:
        found["fields"] = [
            {"name": f["name"], "type": _canonical(f["type"], space)} for f in schema["fields"]
        ]
    for inner in ("items", "values"):
        if inner in schema:
            found[inner] = _canonical(schema[inner], space)
    return found


def _fullname(schema: Mapping[str, Any], space: str) -> tuple[str, str]:
    name = schema["name"]
    if "." not in name:
        space = schema.get("namespace", space)
        name = f"{space}.{name}" if space else name
    return name, name.rpartition(".")[0]


def _compiled(schema: Any, names: dict[str, Read], space: str) -> Read:
    if isinstance(schema, list):
        return _union([_compiled(branch, names, space) for branch in schema])
    if isinstance(schema, str):
        fullname = schema if schema in names else f"{space}.{schema}"
        return _SIMPLE.get(schema) or names[fullname]
    kind = schema["type"]
    if kind in ("record", "enum", "fixed"):
        name, space = _fullname(schema, space)
        names[name] = _named(kind, schema, names, space)
        return names[name]
    if kind in ("array", "map"):
        item = schema["items" if kind == "array" else "values"]
        return _blocks(_compiled(item, names, space), _string if kind == "map" else None)
    return _compiled(kind, names, space)


def _named(kind: str, schema: Any, names: dict[str, Read], space: str) -> Read:
    if kind == "enum":
        return _enum(list(schema["symbols"]))
    if kind == "fixed":
        return _fixed(int(schema["size"]))
    return _record([(f["name"], _compiled(f["type"], names, space)) for f in schema["fields"]])


def _long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint of 64 bits."""
    return _varint(data, at, 64)


def _int(data: bytes, at: int) -> tuple[int, int]:
    return _varint(data, at, 32)


def _varint(data: bytes, at: int, bits: int) -> tuple[int, int]:
    number = shift = 0
    try:
        while (byte := data[at]) >= 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if shift == 70:
                raise Fault("BAD_VARINT")
    except IndexError:
        raise Fault("TRUNCATED") from None
    number |= byte << shift
    if number >> bits or (byte == 0 and shift):
        raise Fault("BAD_VARINT")
    return number >> 1 ^ -(number & 1), at + 1


def _size(data: bytes, at: int) -> tuple[int, int]:
    size, at = _varint(data, at, 64)
    if not 0 <= size <= len(data) - at:
        raise Fault("BAD_LENGTH")
    return size, at


def _string(data: bytes, at: int) -> tuple[str, int]:
    size, at = _size(data, at)
    try:
        return data[at : at + size].decode(), at + size
    except UnicodeDecodeError:
        raise Fault("BAD_UTF8") from None


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _size(data, at)
    return data[at : at + size], at + size


def _null(_: bytes, at: int) -> tuple[None, int]:
    return None, at


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    if at >= len(data):
        raise Fault("TRUNCATED")
    if data[at] > 1:
        raise Fault("BAD_BOOLEAN")
    return data[at] == 1, at + 1


def _number(form: str) -> Read:
    unpack = struct.Struct(form)

    def read(data: bytes, at: int) -> tuple[float, int]:
        if unpack.size > len(data) - at:
            raise Fault("TRUNCATED")
        return unpack.unpack_from(data, at)[0], at + unpack.size

    return read


_SIMPLE: dict[str, Read] = {
    "null": _null, "boolean": _boolean, "int": _int, "long": _long, "float": _number("<f"),
    "double": _number("<d"), "bytes": _bytes, "string": _string,
}  # fmt: skip


def _record(fields: list[tuple[str, Read]]) -> Read:
    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        found = {}
        for name, its in fields:
            found[name], at = its(data, at)
        return found, at

    return read


def _index(data: bytes, at: int, count: int) -> tuple[int, int]:
    index, at = _varint(data, at, 64)
    if not 0 <= index < count:
        raise Fault("BAD_BRANCH")
    return index, at


def _union(branches: list[Read]) -> Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        branch, at = _index(data, at, len(branches))
        return branches[branch](data, at)

    return read


def _enum(symbols: list[str]) -> Read:
    def read(data: bytes, at: int) -> tuple[str, int]:
        index, at = _index(data, at, len(symbols))
        return symbols[index], at

    return read


def _fixed(size: int) -> Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        if size > len(data) - at:
            raise Fault("TRUNCATED")
        return data[at : at + size], at + size

    return read


def _blocks(item: Read, key: Read | None) -> Read:
    """An array's or a map's items: blocks of a count, if negative also a size, and items."""

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        while True:
            count, at = _varint(data, at, 64)
            if count == 0:
                return found, at
            end = None
            if count < 0:
                size, at = _size(data, at)
                end = at + size
            if abs(count) > len(data) - at:
                raise Fault("BAD_LENGTH")
            for _ in range(abs(count)):
                if key is not None:
                    _, at = key(data, at)
                value, at = item(data, at)
                found.append(value)
            if end not in (None, at):
                raise Fault("BAD_LENGTH")

    return read
