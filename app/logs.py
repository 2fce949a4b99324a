"""Logs: structlog through the standard library's handlers, on standard error.

People at a terminal get aligned, coloured lines; everything else gets one JSON object a line.
Faust, mode and aiokafka log through the standard library and so through the same handler. What
enters is an event's name and values. A record's payload is personal data: bytes never leave as
text, only as their length, and tracebacks carry no local variables.
`configure(settings)` is for a process of ours; `dict_config(settings)` is what Faust takes as its
logging_config.
"""

import logging
import logging.config
import math
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

from app.config import Settings

# These narrate each start of a service at INFO; an operator wants their warnings.
CHATTY = ("faust", "mode", "aiokafka", "asyncio")

# What a client says over and over, dozens of times a second, while a broker is away.
REPEATED = ("broker trouble", "librdkafka")
REPEAT_S = 5.0

Event = MutableMapping[str, Any]


def configure(settings: Settings) -> None:
    """Send structlog's and the standard library's logs through one handler; may be called again."""
    logging.config.dictConfig(dict_config(settings))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_shared(),
            Seldom(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def dict_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration for `logging.config.dictConfig`."""
    level = logging.getLevelNamesMapping()[settings.log_level]
    chatty = level if level == logging.DEBUG else max(level, logging.WARNING)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "riskwire": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_shared(), structlog.stdlib.ExtraAdder()],
                "processors": _render(settings),
            }
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "riskwire",
                "stream": sys.stderr,
            }
        },
        "loggers": {name: {"level": chatty} for name in CHATTY},
        "root": {"level": level, "handlers": ["stderr"]},
    }


def _shared() -> list[structlog.typing.Processor]:
    """What every event gets, whoever logged it."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _render(settings: Settings) -> list[structlog.typing.Processor]:
    """The last steps before the line is written: mask bytes, then JSON or columns."""
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    if console:
        plain = structlog.dev.plain_traceback  # rich's traceback would show local variables
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=plain
        )
        return [remove, mask_bytes, renderer]
    return [
        remove,
        mask_bytes,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]


class Seldom:
    """Lets each of `REPEATED`, by its code, pass once in REPEAT_S; it says how many did not."""

    def __init__(self) -> None:
        """Nothing has passed."""
        self._passed: dict[tuple[object, object], tuple[float, int]] = {}

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        """A processor of structlog's; raises its DropEvent."""
        if event["event"] not in REPEATED:
            return event
        kind, now_s = (event["event"], event.get("code", event.get("facility"))), time.monotonic()
        passed_s, left_out = self._passed.get(kind, (-math.inf, 0))
        if now_s < passed_s + REPEAT_S:
            self._passed[kind] = (passed_s, left_out + 1)
            raise structlog.DropEvent
        self._passed[kind] = (now_s, 0)
        if left_out:
            event["left_out"] = left_out
        return event


def mask_bytes(_logger: object, _method: str, event: Event) -> Event:
    """Put a length in the place of bytes, so that no payload is logged by accident."""
    for name, value in event.items():
        if isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"<{len(value)} bytes>"
    return event
