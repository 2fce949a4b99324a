"""The named places in a worker at which a campaign kills it, and what is there to be wrapped.

A point names functions of the production code, which knows nothing of it: `app.chaos.crash` wraps
them in a child process. A name that is not there any more fails there, so that a point cannot fall
silent. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


def _always(_arguments: tuple[Any, ...], _result: Any) -> bool:
    return True


class Place(NamedTuple):
    """A function, by module and name within it, before or after whose calls the point lies.

    Only calls for which `counts` says so (of arguments, and of the result where it is after).
    """

    module: str
    name: str
    after: bool
    counts: Callable[[tuple[Any, ...], Any], bool] = _always


@dataclass(frozen=True, slots=True)
class Point:
    """A place for each transport, or one for both.

    `begins`: it is passed when partitions are taken over, so the worker's forerunner is killed.
    `leaves`: it is passed when partitions are given up, so the worker is told to stop.
    `alone`: nothing else is wrong meanwhile, so that the takeover can be measured.
    """

    name: str
    places: tuple[Place, ...]
    begins: bool = False
    leaves: bool = False
    alone: bool = False


def _of_call(doing: str) -> Callable[[tuple[Any, ...], Any], bool]:
    return lambda arguments, _result: arguments[0] == doing


def _is_exec(arguments: tuple[Any, ...], _result: Any) -> bool:
    return arguments[2:] == ((b"EXEC",),)


def _kafka(name: str, doing: str, *, after: bool) -> tuple[Place, Place]:
    """A call of the transactional producer, in both transports."""
    return (
        Place("app.adapters.librdkafka", name, after),
        Place("app.adapters.confluent_transactor", "call", after, _of_call(doing)),
    )


POINTS: tuple[Point, ...] = (
    Point("decoded", (Place("app.pipeline", "decoded", after=True),)),
    Point("state advanced", (Place("app.live", "Live.advance", after=True),)),
    Point("before begin", _kafka("begin_transaction", "begin a transaction", after=False)),
    Point(
        "records sent",
        (
            Place("app.adapters.native_sink", "NativeSink._produce", after=True),
            Place("app.adapters.confluent", "ObjectSink.send", after=True),
        ),
    ),
    Point(
        "before offsets",
        _kafka("send_offsets_to_transaction", "send offsets to a transaction", after=False),
    ),
    Point(
        "offsets sent",
        _kafka("send_offsets_to_transaction", "send offsets to a transaction", after=True),
        alone=True,
    ),
    Point("committed", _kafka("commit_transaction", "commit a transaction", after=True)),
    Point("before EXEC", (Place("app.adapters.redis", "_ask", after=False, counts=_is_exec),)),
    Point("after EXEC", (Place("app.adapters.redis", "_ask", after=True, counts=_is_exec),)),
    Point("fenced", (Place("app.wiring", "_fence", after=True),), begins=True),
    Point(
        "claimed",
        (Place("app.ownership", "Ownership.claim", after=True, counts=lambda _, got: bool(got)),),
        begins=True,
    ),
    Point(
        "catching up",
        (Place("app.live", "Live.silent", after=True, counts=lambda _, got: bool(got.any())),),
        begins=True,
    ),
    Point(
        "released",
        (Place("app.ownership", "Ownership._release", after=False),),
        leaves=True,
    ),
)
