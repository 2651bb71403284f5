"""Operators that only move elements, int8 or float32, as strided copies or as new names for old memory."""

from __future__ import annotations

import numpy as np
import onnx

from topfive.errors import CompileError
from topfive.graph import attributes
from topfive.targets.gemmini_qemu.emitter import Emitter, Rule, copier, product
from topfive.targets.gemmini_qemu.tensors import CHANNELS_LAST, Loop, Order, Tensor, plain, walk

__all__ = ["RULES"]


def _reshaped(emitter: Emitter, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
    x = emitter.tensor(node.input[0])
    x = emitter.in_order(x, plain(len(x.shape)))
    emitter.alias(node.output[0], x, shape, plain(len(shape)))


def _reshape(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0])
    wanted = emitter.value(node, 1)
    if wanted is None:
        raise CompileError("the new shape is missing")
    allow_zero = attributes(node).get("allowzero", 0)
    shape = [
        x.shape[i] if n == 0 and not allow_zero else int(n) for i, n in enumerate(wanted.ravel().tolist())
    ]
    if -1 in shape:
        known = product([n for n in shape if n != -1])
        shape[shape.index(-1)] = x.count // known if known else 0
    _reshaped(emitter, node, tuple(shape))


def _flatten(emitter: Emitter, node: onnx.NodeProto) -> None:
    shape = emitter.tensor(node.input[0]).shape
    axis = attributes(node).get("axis", 1) % (len(shape) + 1)
    _reshaped(emitter, node, (product(shape[:axis]), product(shape[axis:])))


def _axes(emitter: Emitter, node: onnx.NodeProto, rank: int) -> list[int] | None:
    """Axes given as an attribute (old opsets) or as the second input; None if absent."""
    given = attributes(node).get("axes")
    if given is None:
        value = emitter.value(node, 1)
        given = None if value is None else value.ravel().tolist()
    return None if given is None else [int(a) % rank for a in given]


def _squeeze(emitter: Emitter, node: onnx.NodeProto) -> None:
    shape = emitter.tensor(node.input[0]).shape
    axes = _axes(emitter, node, len(shape))
    dropped = [a for a, n in enumerate(shape) if n == 1] if axes is None else axes
    _reshaped(emitter, node, tuple(n for a, n in enumerate(shape) if a not in dropped))


def _unsqueeze(emitter: Emitter, node: onnx.NodeProto) -> None:
    shape = list(emitter.tensor(node.input[0]).shape)
    value = attributes(node).get("axes", emitter.value(node, 1))
    count = 0 if value is None else len(value)
    for axis in sorted(_axes(emitter, node, len(shape) + count) or []):
        shape.insert(axis, 1)
    _reshaped(emitter, node, tuple(shape))


def _identity(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0])
    emitter.alias(node.output[0], x, x.shape, x.order)


def _transpose(emitter: Emitter, node: onnx.NodeProto) -> None:
    """The axes get other names; memory moves only when an operator needs another order.

    A transposed tensor of rank 4 that happens to lie channels-last costs nothing.
    """
    x = emitter.tensor(node.input[0])
    rank = len(x.shape)
    permutation = attributes(node).get("perm") or list(reversed(range(rank)))
    order: Order = tuple(permutation.index(axis) for axis in x.order)
    emitter.alias(node.output[0], x, [x.shape[a] for a in permutation], order)


def _copies(
    emitter: Emitter, parts: list[tuple[Tensor, list[Loop], int, int]], y: Tensor, reads: list[Tensor]
) -> None:
    """One step of several strided copies into y; a part is (source, loops, source offset, target offset)."""
    code, declarations = [], []
    for number, (x, loops, from_offset, to_offset) in enumerate(parts):
        name = f"walk_{len(emitter.steps)}_{number}"
        declarations.append(f"static const topfive_walk {name} = {walk(loops)};")
        kind = "int8_t" if x.dtype == "int8" else "float"
        source = f"(const {kind} *){x.address} + {from_offset}"
        code.append(f"{copier(x.dtype)}(&{name}, {source}, ({kind} *){y.address} + {to_offset});")
    emitter.step(code, reads, y, declarations=declarations)


def _loops(y: Tensor, x_steps: tuple[int, ...], shape: tuple[int, ...]) -> list[Loop]:
    """Loops in y's memory order over a part of y of this shape."""
    return [Loop(shape[a], y.steps[a], x_steps[a]) for a in y.order]


def _concat(emitter: Emitter, node: onnx.NodeProto) -> None:
    inputs = [emitter.tensor(name) for name in node.input]
    first = inputs[0]
    axis = attributes(node)["axis"] % len(first.shape)
    if any(x.dtype != first.dtype for x in inputs):
        raise CompileError("inputs of different types")
    shape = list(first.shape)
    shape[axis] = sum(x.shape[axis] for x in inputs)
    order = next((x.order for x in inputs if x.storage >= 0), first.order)
    y = emitter.make(node.output[0], first.dtype, shape, order)
    parts, offset = [], 0
    for x in inputs:
        parts.append((x, _loops(y, x.steps, x.shape), 0, offset * y.steps[axis]))
        offset += x.shape[axis]
    _copies(emitter, parts, y, inputs)


def _slice(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0])
    attrs = attributes(node)
    starts, ends, axes, steps = (
        attrs.get(key) if key in attrs else _numbers(emitter, node, index)
        for index, key in enumerate(("starts", "ends", "axes", "steps"), start=1)
    )
    if starts is None or ends is None:
        raise CompileError("starts or ends are missing")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    shape, x_steps, offset = list(x.shape), list(x.steps), 0
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = range(x.shape[axis])[slice(start, _end(end, step), step)]
        shape[axis] = len(chosen)
        offset += x.steps[axis] * (chosen[0] if chosen else 0)
        x_steps[axis] = x.steps[axis] * step
    y = emitter.make(node.output[0], x.dtype, shape, x.order)
    _copies(emitter, [(x, _loops(y, tuple(x_steps), y.shape), offset, 0)], y, [x])


def _numbers(emitter: Emitter, node: onnx.NodeProto, index: int) -> list[int] | None:
    value = emitter.value(node, index)
    return None if value is None else [int(n) for n in value.ravel()]


def _end(end: int, step: int) -> int | None:
    """ONNX says "to the very beginning" of a backward slice with a very negative end; Python says None."""
    return None if step < 0 and end < np.iinfo(np.int32).min else end


def _split(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0])
    attrs = attributes(node)
    axis = attrs.get("axis", 0) % len(x.shape)
    sizes = attrs.get("split") or _numbers(emitter, node, 1)
    if sizes is None:
        each = -(-x.shape[axis] // len(node.output))
        sizes = [min(each, x.shape[axis] - i * each) for i in range(len(node.output))]
    offset = 0
    for name, size in zip(node.output, sizes, strict=True):
        shape = [size if a == axis else n for a, n in enumerate(x.shape)]
        y = emitter.make(name, x.dtype, shape, x.order)
        _copies(emitter, [(x, _loops(y, x.steps, y.shape), offset * x.steps[axis], 0)], y, [x])
        offset += size


def _gather(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Constant indices: one strided copy an index."""
    x = emitter.tensor(node.input[0])
    indices = emitter.value(node, 1)
    if indices is None:
        raise CompileError("indices are missing")
    axis = attributes(node).get("axis", 0) % len(x.shape)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    y = emitter.make(node.output[0], x.dtype, (*before, *indices.shape, *after))
    block = product(after)
    kept = [a for a in range(len(x.shape)) if a != axis]
    y_steps = [block * indices.size * product(x.shape[a + 1 : axis]) for a in range(axis)]
    y_steps += [product(x.shape[a + 1 :]) for a in range(axis + 1, len(x.shape))]
    loops = [Loop(x.shape[a], step, x.steps[a]) for a, step in zip(kept, y_steps, strict=True)]
    parts = [
        (x, loops, int(index) % x.shape[axis] * x.steps[axis], number * block)
        for number, index in enumerate(indices.ravel())
    ]
    _copies(emitter, parts, y, [x])


def _expand(emitter: Emitter, node: onnx.NodeProto) -> None:
    x, wanted = emitter.tensor(node.input[0]), emitter.value(node, 1)
    if wanted is None:
        raise CompileError("the new shape is missing")
    shape = np.broadcast_shapes(x.shape, tuple(int(n) for n in wanted.ravel()))
    y = emitter.make(node.output[0], x.dtype, shape)
    missing = len(shape) - len(x.shape)
    x_steps = [0] * missing + [0 if n == 1 else step for n, step in zip(x.shape, x.steps, strict=True)]
    _copies(emitter, [(x, _loops(y, tuple(x_steps), y.shape), 0, 0)], y, [x])


def _pad(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Constant padding: the constant everywhere, then the tensor into its place."""
    x, widths = emitter.tensor(node.input[0]), _numbers(emitter, node, 1)
    if widths is None or min(widths) < 0 or attributes(node).get("mode", "constant") != "constant":
        raise CompileError("only constant padding by constant widths has a C form")
    rank = len(x.shape)
    value = np.full(1, emitter.number(node, 2), x.dtype)
    filler = Tensor("", x.dtype, (1,), (0,), emitter.data.add(value), -1)
    order = x.order if rank != 4 else CHANNELS_LAST
    shape = [n + widths[a] + widths[a + rank] for a, n in enumerate(x.shape)]
    y = emitter.make(node.output[0], x.dtype, shape, order)
    everywhere = [Loop(y.count, 1, 0)]
    offset = sum(widths[a] * y.steps[a] for a in range(rank))
    _copies(emitter, [(filler, everywhere, 0, 0), (x, _loops(y, x.steps, x.shape), 0, offset)], y, [x])


RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _identity,
    "Dropout": _identity,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Expand": _expand,
    "Pad": _pad,
}
