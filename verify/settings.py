"""Where the evidence is, and by which rules it was made: the worker's own settings, read again.

The names and defaults are those of `riskwire config`; only the environment is read, no file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verify.evidence import CannotDecide

ROLES = ("transactions", "labels", "scores", "alerts", "dead_letters", "watermarks")
SCHEMAS = ("transaction", "fraud_label", "risk_score", "risk_alert", "", "watermark")
"""The schema of each role's values; dead letters have none."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the worker's settings the laws depend on; `topics` by role."""

    bootstrap: str
    redis_url: str
    group: str
    topics: Mapping[str, str]
    partitions: int
    namespace: str = ""
    model: str = ""
    kafka_options: Mapping[str, str] | None = None
    registry_url: str = ""
    registry_auth: str = ""
    value_bytes_max: int = 16_384
    headers_max: int = 32
    header_bytes_max: int = 8192
    future_us: int = 300_000_000

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Settings":
        """Read RISKWIRE_* variables; raises CannotDecide for one that makes no sense."""

        def text(name: str, default: str = "") -> str:
            return environ.get(f"RISKWIRE_{name}", default)

        def number(name: str, default: int) -> int:
            try:
                return int(text(name, str(default)))
            except ValueError:
                raise CannotDecide(f"RISKWIRE_{name} is no number: {text(name)!r}") from None

        prefix = text("TOPIC_PREFIX")
        return cls(
            bootstrap=text("BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
            redis_url=text("REDIS_URL", "redis://127.0.0.1:6379/0"),
            group=text("GROUP_ID", "riskwire"),
            topics={
                role: prefix + text(f"TOPIC_{role.upper()}", role.replace("_", "-"))
                for role in ROLES
            },
            partitions=number("PARTITIONS", 4),
            namespace=text("STATE_NAMESPACE"),
            model=text("MODEL"),
            kafka_options=_options(text),
            registry_url=text("SCHEMA_REGISTRY_URL"),
            registry_auth=text("SCHEMA_REGISTRY_AUTH"),
            value_bytes_max=number("VALUE_BYTES_MAX", 16_384),
            headers_max=number("HEADERS_MAX", 32),
            header_bytes_max=number("HEADER_BYTES_MAX", 8192),
            future_us=1_000_000 * number("FUTURE_S_MAX", 300),
        )


def _options(text: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("KAFKA_OPTIONS", "CONSUMER_OPTIONS"):
        try:
            found |= {k: str(v) for k, v in json.loads(text(name, "{}")).items()}
        except (ValueError, AttributeError):
            raise CannotDecide(f"RISKWIRE_{name} is no JSON object") from None
    if text("SASL_PASSWORD"):
        found["sasl.password"] = text("SASL_PASSWORD")
    # How a group is joined is nothing to a reader without one.
    return {k: v for k, v in found.items() if k not in ("group.instance.id", "group.id")}
