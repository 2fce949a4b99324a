"""The OpenMP runtime that LightGBM's wheel expects of the system, where the system has none.

LightGBM asks for `libgomp.so.1` and brings none; a bare machine has none either. scikit-learn's
wheel, which comes with the same extra, brings GCC's under a name of its own: that one is loaded
under the usual name, so that `pip install` is enough. Does nothing where it is not needed or cannot
be done: the import of LightGBM then says what is missing.
"""

import ctypes
import importlib.util
import sys
import tempfile
from pathlib import Path

USUAL = "libgomp.so.1"


def provide() -> None:
    """Let libgomp be loaded; call it before LightGBM is imported."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(USUAL)
    except OSError:
        bundled = _bundled()
        if bundled is not None:
            ctypes.CDLL(str(bundled), ctypes.RTLD_GLOBAL)
            bundled.unlink()


def _bundled() -> Path | None:
    """A copy of scikit-learn's that calls itself by the usual name; None where there is none."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        return None
    libraries = Path(found.origin).parent.parent / "scikit_learn.libs"
    for library in sorted(libraries.glob("libgomp-*.so*")):
        own = library.name.encode() + b"\0"
        renamed = library.read_bytes().replace(own, USUAL.encode().ljust(len(own), b"\0"))
        with tempfile.NamedTemporaryFile(suffix=USUAL, delete=False) as copy:
            copy.write(renamed)
        return Path(copy.name)
    return None
