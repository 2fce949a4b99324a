"""`riskwire` as a process with faults put in: FAULTS names them, files in FAULTS_PLACE steer them.

`impatient`: the calls of a transaction may take 2.5 s, not 10. `gate`: where the file `closed` is,
a transaction stops between its records and its offsets, and says so by the file `waiting`. `deaf`:
what librdkafka logs of lost requests is not listened to, so that the rule of doubt is off where a
commit was sent twice. `dies`: where the file `armed` is, the process is killed before EndTxn.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.adapters import confluent, confluent_transactor, librdkafka, native_transactor
from app.cli import main

IMPATIENT_S = 2.5
PLACE = Path(os.environ["FAULTS_PLACE"])
TRANSACTORS = native_transactor.NativeTransactor, confluent_transactor.ObjectTransactor


def impatient() -> None:
    """Shorten what a transaction's calls may take."""
    for transactor in TRANSACTORS:
        whole = transactor.__init__

        def init(
            self: Any, options: Any, records: int, _: float, *bounds: int, whole: Any = whole
        ) -> None:
            whole(self, options, records, IMPATIENT_S, *bounds)

        transactor.__init__ = init  # type: ignore[assignment,method-assign]


def deaf() -> None:
    """Let no log line count."""
    for module in (native_transactor, confluent_transactor):
        module.is_trouble = lambda *_: False  # type: ignore[attr-defined]


def gate() -> None:
    """Stop before the offsets where the gate is closed."""

    def wait() -> None:
        if (PLACE / "closed").exists():
            (PLACE / "waiting").touch()
        while (PLACE / "closed").exists():
            time.sleep(0.005)

    _before("send_offsets_to_transaction", "send offsets to a transaction", wait)


def dies() -> None:
    """Be killed before EndTxn where that is wanted."""

    def die() -> None:
        if (PLACE / "armed").exists():
            (PLACE / "armed").unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    _before("commit_transaction", "commit a transaction", die)


def _before(function: str, doing: str, act: Callable[[], None]) -> None:
    """Act before a call of either transactor."""
    native, call = getattr(librdkafka, function), confluent.call

    def acting(*arguments: Any) -> Any:
        act()
        return native(*arguments)

    def calling(what: str, *arguments: Any) -> Any:
        if what == doing:
            act()
        return call(what, *arguments)

    setattr(librdkafka, function, acting)
    setattr(confluent_transactor, "call", calling)  # noqa: B010 -- mypy knows that it is not theirs


if __name__ == "__main__":
    for name in os.environ["FAULTS"].split(","):
        {"impatient": impatient, "deaf": deaf, "gate": gate, "dies": dies}[name]()
    main()
