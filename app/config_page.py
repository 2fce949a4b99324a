"""The reference of settings, generated from `app.config`: for people, for Markdown, as an env file.

In: settings and where they may come from. Out: text. Secrets are never in it, not even inside an
address or among librdkafka's options.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.config import PREFIX, Settings

HIDDEN = "***"
_SECRET_OPTION = re.compile(r"password|secret|jaas|key\.pem|token", re.IGNORECASE)
_USER_INFO = re.compile(r"://[^@/]*@")


@dataclass(frozen=True, slots=True)
class Entry:
    """One variable. `source` says who set it, empty where the default holds."""

    name: str
    value: str
    default: str
    source: str
    doc: str
    secret: bool


def entries(settings: Settings) -> list[Entry]:
    """Return every variable in the order of its definition."""
    sources = _sources(settings)
    return [
        Entry(
            PREFIX + name.upper(),
            _shown(getattr(settings, name)),
            _public(field),
            next((who for who, names in sources.items() if PREFIX + name.upper() in names), ""),
            field.description or "",
            _is_secret(field),
        )
        for name, field in Settings.model_fields.items()
    ]


def show(listed: list[Entry]) -> None:
    """Print a table on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        print(plain(listed))  # noqa: T201 -- this is the product
        return
    table = Table("variable", "value", "set by", "meaning", row_styles=("", "dim"))
    for entry in listed:
        value = Text(entry.value, "bold" if entry.source else "")
        table.add_row(Text(entry.name), value, entry.source, Text(entry.doc))
    Console().print(table)


def markdown(listed: list[Entry]) -> str:
    """Return a Markdown table of names, defaults and meanings; the same wherever it is made."""
    rows = [
        f"| `{e.name}` | {f'`{e.default}`' if e.default else ''} | {_escaped(e.doc)} |"
        for e in listed
    ]
    return "\n".join(("| Variable | Default | Meaning |", "|---|---|---|", *rows))


def env_file(listed: list[Entry]) -> str:
    """Return an env file: what is set, the rest commented out; secrets are left to be filled in."""
    return "\n".join(line for entry in listed for line in _env_lines(entry))


def plain(listed: list[Entry]) -> str:
    """Return a block of lines for each variable, for pipes and narrow screens."""
    return "\n".join(
        f"{e.name}={e.value}{f'  ({e.source})' if e.source else ''}\n    {e.doc}" for e in listed
    )


def _env_lines(entry: Entry) -> Iterator[str]:
    yield f"# {entry.doc}"
    if not entry.source:
        yield f"#{entry.name}={entry.default}"
    elif entry.secret:
        yield f"#{entry.name}=  set by the {entry.source}, not shown"
    else:
        yield f"{entry.name}={entry.value}"


def _sources(settings: Settings) -> Mapping[str, set[str]]:
    """Where each variable is set, in the order of precedence that pydantic-settings has."""
    env_file = settings.model_config.get("env_file")
    secrets = Path(os.environ.get(PREFIX + "SECRETS_DIR", "/run/secrets"))
    return {
        "environment": {name.upper() for name in os.environ},
        str(env_file): {name.upper() for name in dotenv_values(str(env_file))},
        "secret file": {path.name.upper() for path in secrets.iterdir()}
        if secrets.is_dir()
        else set(),
    }


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _public(field: FieldInfo) -> str:
    """Return a default as text: it stands in the source, so nothing of it is secret."""
    value = field.default
    return _shown(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        held = value.get_secret_value()
        return _USER_INFO.sub(f"://{HIDDEN}@", held) if "://" in held else HIDDEN
    if isinstance(value, dict):
        masked = {k: HIDDEN if _SECRET_OPTION.search(k) else v for k, v in value.items()}
        return json.dumps(masked) if masked else ""
    return _USER_INFO.sub(f"://{HIDDEN}@", str(value))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
