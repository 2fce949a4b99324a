"""What all tests share: Hypothesis' profile, and tests that are left out say so loudly.

A test that needs what this machine lacks raises `left_out`: it is skipped, named with its cause in
a banner at the end, and makes the run fail where CI=true: CI must not pass on tests it never ran.
Where the tests are shared by several processes (pytest-xdist), each hands what it knows to the
first one, which speaks for all.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import settings

from app.adapters.openmp import provide

LEFT_OUT = pytest.StashKey[dict[str, str]]()
NOT_HERE = "is not to be had on this machine"
SERVERS = pytest.StashKey[dict[str, str]]()
FIGURES = pytest.StashKey[dict[str, str]]()
SHARED = (LEFT_OUT, SERVERS, FIGURES)

# No deadline: a slow example on a shared machine is no defect.
settings.register_profile("riskwire", deadline=None)
settings.load_profile("riskwire")
provide()


_configure = structlog.configure


def _configure_uncached(**options: Any) -> None:
    """`structlog.configure`; a logger that is cached would be deaf to a later `capture_logs`."""
    _configure(**options | {"cache_logger_on_first_use": False})


structlog.configure = _configure_uncached  # type: ignore[assignment]


def left_out(config: pytest.Config, what: str, why: str) -> BaseException:
    """What to raise to skip a test, or all tests of a fixture; it is remembered for the banner."""
    config.stash.setdefault(LEFT_OUT, {})[what] = why
    return pytest.skip.Exception(f"{what} {NOT_HERE}: {why}")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says what a test has measured, at the end of the run."""
    figures = request.config.stash.setdefault(FIGURES, {})
    return lambda said: figures.update({said: ""})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true, a run that left tests out has failed."""
    stash = session.config.stash
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["found"] = [stash.get(key, {}) for key in SHARED]
    elif stash.get(LEFT_OUT, {}) and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Know what one of several processes left out, and which servers it had."""
    for key, found in zip(SHARED, getattr(node, "workeroutput", {}).get("found", ()), strict=False):
        node.config.stash.setdefault(key, {}).update(found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the servers that were used and what was measured, then the banner."""
    for what, kind in config.stash.get(SERVERS, {}).items():
        terminalreporter.line(f"{what}: {kind}")
    for figure in config.stash.get(FIGURES, {}):
        terminalreporter.line(figure)
    left_out = config.stash.get(LEFT_OUT, {})
    if not left_out:
        return
    terminalreporter.section("TESTS LEFT OUT", sep="!", red=True, bold=True)
    for what, why in left_out.items():
        terminalreporter.line(f"{what} {NOT_HERE}: {why}")
    skipped = terminalreporter.stats.get("skipped", ())
    missed = [report.nodeid for report in skipped if NOT_HERE in str(report.longrepr)]
    terminalreporter.line(f"{len(missed)} tests did not run:")
    for nodeid in missed:
        terminalreporter.line(f"  {nodeid}")
    if os.environ.get("CI") == "true":
        terminalreporter.line("CI=true: this run has therefore failed.", red=True)
