"""How the kernels are compiled: once for each kind of argument, kept on disk, free of the GIL.

They allocate nothing, and _nrt=False says so: else Numba counts references of every array argument
with atomic instructions at each inner call. Division follows NumPy: no check for zero. A function
that takes the whole `State` is `inlined`, since passing its arrays costs more than most do.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a loop that allocates nothing."""
    compile_: Any = njit  # its types do not know _nrt
    made: F = compile_(nogil=True, cache=True, error_model="numpy", _nrt=False)(function)
    return made


def inlined(function: F) -> F:
    """Compile a part of such loops, into each of them."""
    compile_: Any = njit
    made: F = compile_(nogil=True, inline="always", error_model="numpy", _nrt=False)(function)
    return made


def _prefetch(_typing: Any, array: Any, _place: Any) -> Any:
    """Ask the CPU for the cache line of an array's element, counted from its first; for reading.

    A place outside the array does no harm.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        find: Any = cgutils.get_or_insert_function
        call = find(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(array, types.int64), generate


prefetch: Any = intrinsic(_prefetch)
"""prefetch(array, place), for use in compiled loops."""
