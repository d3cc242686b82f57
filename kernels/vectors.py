"""Vector registers in compiled kernels: a few numbers side by side, loaded, combined and stored at once.

Loops of a fixed few turns are unrolled by the compiler before it looks for vectors, and then stay scalar; loops that
keep some of their numbers and drop others it does not turn into vectors at all. These functions say it outright, for
vectors of n doubles; on processors whose registers are shorter the compiler splits them. n must be known when a kernel is
compiled: a number, or a constant of the module or of the function around.

    load(array, k, n)       the numbers from place k on
    store(array, k, v)      puts them there
    fill(number, n)         the same in every lane
    minus(v, w)             v - w
    axpy(number, v, w)      number v + w
    fma(u, v, w)            u v + w, lane by lane
    dot(v, w)               the sum of products, in a fixed order
    with_last(v, number)    v with another number in its last lane
    below(v, number)        mask of the lanes where v < number
    count(mask)             how many lanes it has
    bits(mask)              an integer with one bit for each lane, the first one lowest
    keep(array, k, v, mask)                     stores the masked lanes side by side from place k on
    keep_index(array, k, source, l, mask)       does so with int32 numbers from place l of `source` on
    copy_index(array, k, source, l, n)          copies n int32 numbers

Places k of arrays are counted over all axes; arrays must be contiguous, and no place is checked. `keep` and `keep_index`
need room for n numbers: what stands behind those that they keep may be overwritten.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

__all__ = [
    "axpy",
    "below",
    "bits",
    "copy_index",
    "count",
    "dot",
    "fill",
    "fma",
    "keep",
    "keep_index",
    "load",
    "minus",
    "store",
    "with_last",
]

_DOUBLE, _BIT, _INT32 = ir.DoubleType(), ir.IntType(1), ir.IntType(32)
# Products and sums may be rounded once; nothing else is left to the compiler.
_FUSE = ("contract",)
# Processors without this feature would branch at every lane.
_COMPRESSES = bool(binding.get_host_cpu_features().get("avx512vl"))
_proxy: Any = cgutils.create_struct_proxy
_declared: Any = cgutils.get_or_insert_function


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Code for the compiler, from types of arguments (constants as such) to a signature and a generator."""
    made: Callable[..., Any] = intrinsic(prefer_literal=True)(function)
    return made


class Vector(types.Type):
    """The type of n doubles in registers."""

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__(name=f"Vector({length})")


class Mask(types.Type):
    """The type of n truth values."""

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__(name=f"Mask({length})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(_DOUBLE, kind.length))  # type: ignore[no-untyped-call]


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Mask) -> None:
        super().__init__(manager, kind, ir.VectorType(_BIT, kind.length))  # type: ignore[no-untyped-call]


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = _proxy(array_type)(context, builder, value=array).data
    return builder.gep(data, [index])


def _splat(builder: Any, value: Any, n: int) -> Any:
    one = builder.insert_element(
        ir.Constant(ir.VectorType(_DOUBLE, n), ir.Undefined), value, ir.Constant(_INT32, 0)
    )
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT32, n), [0] * n))


def _multiply_add(builder: Any, u: Any, v: Any, w: Any) -> Any:
    return builder.fadd(builder.fmul(u, v, flags=_FUSE), w, flags=_FUSE)


def _compress(builder: Any, name: str, kind: Any, value: Any, place: Any, chosen: Any, n: int) -> None:
    if not _COMPRESSES:
        # Every lane is stored, and the next one overwrites those that are not kept.
        for lane in range(n):
            where = ir.Constant(_INT32, lane)
            builder.store(builder.extract_element(value, where), place)
            step = builder.zext(builder.extract_element(chosen, where), _INT32)
            place = builder.gep(place, [step])
        return
    function_type = ir.FunctionType(ir.VoidType(), [kind, place.type, ir.VectorType(_BIT, n)])
    function = _declared(builder.module, function_type, f"llvm.masked.compressstore.v{n}{name}")
    builder.call(function, [value, place, chosen])


def _indices(context: Any, builder: Any, array_type: Any, array: Any, index: Any, n: int) -> Any:
    """n int32 numbers of an array."""
    kind = ir.VectorType(_INT32, n)
    values = builder.load(
        builder.bitcast(_pointer(context, builder, array_type, array, index), kind.as_pointer())
    )
    values.align = 4
    return values


@_intrinsic
def load(typing: Any, array: Any, k: Any, n: Any) -> Any:
    if not isinstance(n, types.IntegerLiteral):
        return None
    kind = ir.VectorType(_DOUBLE, n.literal_value)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *args[:2])
        found = builder.load(builder.bitcast(place, kind.as_pointer()))
        found.align = 8
        return found

    return Vector(n.literal_value)(array, types.intp, n), code


@_intrinsic
def store(typing: Any, array: Any, k: Any, v: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], builder.bitcast(place, args[2].type.as_pointer())).align = 8
        return context.get_dummy_value()

    return types.void(array, types.intp, v), code


@_intrinsic
def fill(typing: Any, number: Any, n: Any) -> Any:
    if not isinstance(n, types.IntegerLiteral):
        return None
    length = n.literal_value

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0], length)

    return Vector(length)(types.float64, n), code


@_intrinsic
def minus(typing: Any, v: Any, w: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(*args)

    return v(v, w), code


@_intrinsic
def axpy(typing: Any, number: Any, v: Any, w: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _multiply_add(builder, _splat(builder, args[0], v.length), args[1], args[2])

    return v(types.float64, v, w), code


@_intrinsic
def fma(typing: Any, u: Any, v: Any, w: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _multiply_add(builder, *args)

    return u(u, v, w), code


@_intrinsic
def dot(typing: Any, v: Any, w: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        products = builder.fmul(args[0], args[1], flags=_FUSE)
        parts = [builder.extract_element(products, ir.Constant(_INT32, k)) for k in range(v.length)]
        while len(parts) > 1:
            sums = [builder.fadd(a, b) for a, b in zip(parts[0::2], parts[1::2])]
            parts = sums + parts[len(parts) // 2 * 2 :]
        return parts[0]

    return types.float64(v, w), code


@_intrinsic
def with_last(typing: Any, v: Any, number: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[1], ir.Constant(_INT32, v.length - 1))

    return v(v, types.float64), code


@_intrinsic
def below(typing: Any, v: Any, number: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_ordered("<", args[0], _splat(builder, args[1], v.length))

    return Mask(v.length)(v, types.float64), code


@_intrinsic
def count(typing: Any, mask: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.ctpop(builder.bitcast(args[0], ir.IntType(mask.length)))
        return builder.zext(number, ir.IntType(64))

    return types.int64(mask), code


@_intrinsic
def bits(typing: Any, mask: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.length)), ir.IntType(64))

    return types.int64(mask), code


@_intrinsic
def keep(typing: Any, array: Any, k: Any, v: Any, mask: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *args[:2])
        _compress(builder, "f64", args[2].type, args[2], place, args[3], v.length)
        return context.get_dummy_value()

    return types.void(array, types.intp, v, mask), code


@_intrinsic
def keep_index(typing: Any, array: Any, k: Any, source: Any, l: Any, mask: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *args[:2])
        values = _indices(context, builder, signature.args[2], args[2], args[3], mask.length)
        _compress(builder, "i32", values.type, values, place, args[4], mask.length)
        return context.get_dummy_value()

    return types.void(array, types.intp, source, types.intp, mask), code


@_intrinsic
def copy_index(typing: Any, array: Any, k: Any, source: Any, l: Any, n: Any) -> Any:
    if not isinstance(n, types.IntegerLiteral):
        return None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *args[:2])
        values = _indices(context, builder, signature.args[2], args[2], args[3], n.literal_value)
        builder.store(values, builder.bitcast(place, values.type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, source, types.intp, n), code
