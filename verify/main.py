"""The command: `python -m verify`, or `riskwire verify`.

Exit status: 0 all laws hold, 1 one is violated, 2 a setting is wrong or the evidence is not all
there, 3 Kafka or Redis cannot be reached or still moves.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from verify.evidence import CannotDecide, CannotReach
from verify.kafka import KafkaEvidence
from verify.laws import Seen, judge
from verify.report import Report
from verify.settings import Settings
from verify.watch import Watch, read

EXIT_VIOLATED, EXIT_CONFIG, EXIT_UNREACHABLE = 1, 2, 3


def run(
    bootstrap: str, redis_url: str, *, environ: Mapping[str, str], drained: bool = True,
    seen: Seen | None = None,
) -> Report:  # fmt: skip
    """Judge a deployment whose other settings are in `environ`.

    `drained`: the workers were given time to answer everything. `seen` is what `watch.read` gives
    of a reader beside. Raises CannotDecide and CannotReach.
    """
    settings = dataclasses.replace(Settings.of(environ), bootstrap=bootstrap, redis_url=redis_url)
    return _judged(settings, drained=drained, seen=seen)


def _judged(settings: Settings, *, drained: bool, seen: Seen | None) -> Report:
    evidence = KafkaEvidence(settings)
    with contextlib.closing(evidence):
        report = judge(evidence, settings, drained=drained, seen=seen)
        evidence.check_still()
    return report


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse, judge, print, exit."""
    parser = argparse.ArgumentParser(
        prog="riskwire verify",
        description="State the laws of exactly-once over what Kafka and Redis hold. Settings are"
        " the worker's own RISKWIRE_* variables. Status 0: all hold, 1: one is violated.",
    )
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument(
        "--drained", action="store_true", help="the workers have had time to answer everything"
    )
    parser.add_argument("--watch", type=Path, metavar="FILE", help="only record what a live reader"
                        " sees, until Ctrl-C or SIGTERM")  # fmt: skip
    parser.add_argument("--seen", type=Path, metavar="FILE", help="compare with such a record")
    parser.add_argument("--bootstrap", help="Kafka brokers, instead of RISKWIRE_BOOTSTRAP_SERVERS")
    parser.add_argument("--redis-url", help="instead of RISKWIRE_REDIS_URL")
    options = parser.parse_args(arguments)
    environ = dict(os.environ)
    for name, value in (("BOOTSTRAP_SERVERS", options.bootstrap), ("REDIS_URL", options.redis_url)):
        if value:
            environ[f"RISKWIRE_{name}"] = value
    try:
        settings = Settings.of(environ)
        if options.watch:
            _watch(settings, options.watch)
        seen = read(options.seen) if options.seen else None
        report = _judged(settings, drained=options.drained, seen=seen)
    except (CannotDecide, CannotReach) as error:
        sys.stderr.write(f"riskwire verify: {error}\n")
        sys.exit(EXIT_CONFIG if isinstance(error, CannotDecide) else EXIT_UNREACHABLE)
    text = json.dumps(report.as_json()) if options.json else "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    sys.exit(0 if report.holds else EXIT_VIOLATED)


def _watch(settings: Settings, path: Path) -> NoReturn:
    done = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: done.set())
    watch = Watch(settings, path).start()
    done.wait()
    watch.stop()
    sys.exit(0)
