"""What a benchmark is given on a command line."""

from collections.abc import Callable
from typing import TypeVar

from app.errors import ConfigError

Number = TypeVar("Number", int, float)


def numbers(text: str, kind: Callable[[str], Number], what: str, example: str) -> list[Number]:
    """Numbers of 1 and more, separated by commas; raises ConfigError for what is none."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"{text!r} are no {what}; write {example}")
    return found
