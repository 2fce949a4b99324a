"""The contract on the wire: Avro schemas, one file each, and what identifies them.

`load(name)` gives a schema with its parsed form and its CRC-64-AVRO fingerprint, the identity that
Avro's single-object encoding carries. Nothing here touches the network.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import fastavro
from fastavro.schema import fingerprint as fastavro_fingerprint
from fastavro.schema import to_parsing_canonical_form

NAMES = ("transaction", "risk_score", "risk_alert", "fraud_label", "watermark")
SINGLE_OBJECT_MAGIC = b"\xc3\x01"


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """An Avro schema: its text, its form parsed by fastavro and its fingerprint."""

    name: str
    text: str
    parsed: Any
    fingerprint: int

    @property
    def single_object_header(self) -> bytes:
        """The ten bytes in front of a value in Avro's single-object encoding."""
        return SINGLE_OBJECT_MAGIC + self.fingerprint.to_bytes(8, "little")


def parse(text: str, name: str = "") -> Schema:
    """Parse an Avro schema's JSON text; raises fastavro's SchemaParseException or ValueError."""
    raw = json.loads(text)
    parsed = fastavro.parse_schema(raw)
    canonical = to_parsing_canonical_form(raw)
    digest = fastavro_fingerprint(canonical, "CRC-64-AVRO")
    # fastavro prints the fingerprint in the little-endian order of the single-object header.
    return Schema(name, text, parsed, int.from_bytes(bytes.fromhex(digest), "little"))


def without_logical_types(text: str) -> Any:
    """Parse a schema so that fastavro leaves times and the like as the numbers that they are."""

    def strip(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: strip(part) for name, part in node.items() if name != "logicalType"}
        return [strip(part) for part in node] if isinstance(node, list) else node

    return parse(json.dumps(strip(json.loads(text)))).parsed


@functools.cache
def load(name: str) -> Schema:
    """Load one of NAMES from package data; raises FileNotFoundError for another name."""
    return parse(resources.files(__name__).joinpath(f"{name}.avsc").read_text("utf-8"), name)
