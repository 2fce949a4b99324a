"""The OpenMP runtime out of scikit-learn's wheel, for machines that have none."""

import ctypes
import sys

import pytest

from app.adapters import openmp


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
def test_the_bundled_runtime_loads_under_the_usual_name() -> None:
    """It calls itself libgomp.so.1, which is what LightGBM's library asks for."""
    copy = openmp._bundled()
    assert copy is not None
    assert b"libgomp.so.1\0" in copy.read_bytes()
    assert ctypes.CDLL(str(copy)).omp_get_max_threads() >= 1
    copy.unlink()
