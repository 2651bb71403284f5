"""Operators on int8 codes in C: the arithmetic of `topfive.targets.gemmini.arithmetic`, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import CompileError
from topfive.graph import attributes
from topfive.targets.gemmini import arithmetic
from topfive.targets.gemmini_qemu.data import scalings
from topfive.targets.gemmini_qemu.emitter import CODES, Emitter, Rule, product
from topfive.targets.gemmini_qemu.tensors import CHANNELS_LAST, Tensor, plain
from topfive.targets.gemmini_qemu.windows import Window, window_of

__all__ = [
    "RULES",
    "arrange",
    "batch_of",
    "block_of",
    "check_depth",
    "clip_codes",
    "factor",
    "look_up",
    "operands",
    "pool_codes",
    "two_forms",
]

# What convolution.c is written for: channels a block, pixels a panel, lanes of 21 bits.
CHANNELS = 4
DEPTHWISE = 8
WORD_BYTES = 8
WORDS = 3
PIXELS = 9
LANE_SUM = 2**20
LARGEST_CODE = 128
LONGEST_BLOCK = 512
SURE_BLOCK = (LANE_SUM - 1) // LARGEST_CODE**2
# Depth beyond which an int32 accumulator could overflow, whose wrapping the lanes do not follow.
DEEPEST = 2**31 // LARGEST_CODE**2 - 1
ALL_CODES = np.arange(256, dtype=np.uint8).view(np.int8)


def arrange(matrix: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights [depth, columns] as [columns / 4 rounded up, depth, 4], missing columns 0."""
    depth, columns = matrix.shape
    padded = np.zeros((depth, -(-columns // CHANNELS) * CHANNELS), np.int8)
    padded[:, :columns] = matrix
    return np.ascontiguousarray(padded.reshape(depth, -1, CHANNELS).transpose(1, 0, 2))


def block_of(matrices: NDArray[np.int8] | None, depth: int) -> int:
    """How many products may be added up in a lane of 21 bits, whatever the activations are.

    matrices: weights [..., depth, columns], None if they are not known: then any codes.
    """
    if matrices is None:
        return min(depth, SURE_BLOCK)
    largest = (LANE_SUM - 1) // LARGEST_CODE
    weights = matrices.reshape(-1, depth, matrices.shape[-1]).astype(np.int32)
    # sums[:, k] adds up |weights| before k.
    sums = np.pad(np.abs(weights), ((0, 0), (1, 0), (0, 0))).cumsum(axis=1, dtype=np.int32)
    block = min(depth, LONGEST_BLOCK)
    while True:
        edges = sums[:, [*range(0, depth, block), depth]]
        if np.diff(edges, axis=1).max(initial=0) <= largest:
            return block
        block = -(-block * 3 // 4) if block > SURE_BLOCK * 4 // 3 else SURE_BLOCK


def factor(emitter: Emitter, node: onnx.NodeProto, x: int, w: int, y: int) -> NDArray[np.float32]:
    """float32(x_scale * w_scale) / y_scale, each step rounded to float32; one value or one a channel."""
    scales = [emitter.value(node, i) for i in (x, w, y)]
    if any(s is None for s in scales):
        raise CompileError("a scale is missing")
    x_scale, w_scale, y_scale = (np.asarray(s, np.float32).ravel() for s in scales)
    return np.asarray((x_scale * w_scale) / y_scale, np.float32)


def _scaling(emitter: Emitter, factors: NDArray[np.float32], channels: int) -> str:
    if factors.size not in (1, channels):
        raise CompileError(f"{factors.size} scales for {channels} channels")
    step = int(factors.size > 1)
    return f".scaling = {emitter.data.add(scalings(factors))}, .scaling_step = {step}"


def _bias(emitter: Emitter, node: onnx.NodeProto, channels: int, groups: int, block: int) -> str:
    """The bias with each group filled up to whole blocks of channels."""
    bias = emitter.value(node, 8)
    codes = np.zeros(channels, np.int32) if bias is None else np.asarray(bias, np.int32)
    filled = np.pad(codes.reshape(groups, -1), ((0, 0), (0, -(channels // groups) % block)))
    return f".bias = {emitter.data.add(filled)}"


def _depthwise_weights(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights [channels, rows, columns] as [channels / 8 rounded up, rows, columns, 8]."""
    filled = np.pad(weights, ((0, -len(weights) % DEPTHWISE), (0, 0), (0, 0)))
    return filled.reshape(-1, DEPTHWISE, *weights.shape[1:]).transpose(0, 2, 3, 1)


def two_forms(call: str, node: onnx.NodeProto, y: Tensor, low: int, high: int) -> dict[str, Any]:
    """The step's code with its fused activation, and without it where there is one."""
    code = [call.format(low=low, high=high)]
    if node.output[0] == y.name:
        return {"code": code}
    unfused = Tensor(node.output[0], y.dtype, y.shape, y.order, y.address, y.storage)
    return {"code": code, "before": [([call.format(low=CODES[0], high=CODES[1])], unfused)]}


def _conv(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0], "int8")
    weights = emitter.value(node, 3)
    if weights is None or weights.ndim != 4 or len(x.shape) != 4:
        raise CompileError("only two-dimensional convolutions have a C form")
    attrs = attributes(node)
    groups = attrs.get("group", 1)
    out_channels, depth_channels, *kernel = weights.shape
    window = window_of(attrs, x.shape, (kernel[0], kernel[1]))
    name, low, high = emitter.activation(node.output[0])
    x = emitter.in_order(x, CHANNELS_LAST)
    depthwise = groups == out_channels == x.shape[1] and depth_channels == 1
    if depthwise:
        stored, bias = _depthwise_weights(weights[:, 0]), _bias(emitter, node, out_channels, 1, DEPTHWISE)
        block, function = 1, "topfive_convolve_depthwise"
        scratch = WORD_BYTES * product(kernel) + 4 * (out_channels + DEPTHWISE)
    else:
        # [group, kernel row, kernel column, channel, output channel of the group]
        stored = weights.reshape(groups, -1, depth_channels, *kernel).transpose(0, 3, 4, 2, 1)
        stored = stored.reshape(groups, depth_channels * product(kernel), -1)
        block, scratch = block_of(stored, stored.shape[1]), _conv_scratch(stored.shape[1], stored.shape[2])
        stored, function = np.stack([arrange(group) for group in stored]), "topfive_convolve"
        bias = _bias(emitter, node, out_channels, groups, CHANNELS)
    fields = [
        f".window = {window.initialiser()}",
        f".out_channels = {out_channels}, .groups = {groups}, .block = {block}",
        f".weights = {emitter.data.add(stored)}, {bias}",
        _scaling(emitter, factor(emitter, node, 1, 4, 6), out_channels),
    ]
    shape = (x.shape[0], out_channels, window.out_rows, window.out_cols)
    y = emitter.make(name, "int8", shape, CHANNELS_LAST)
    declaration, descriptor = emitter.declare("topfive_convolution", "{" + ",\n    ".join(fields) + "}")
    call = f"{function}(&{descriptor}, {x.address}, {y.address}, {{low}}, {{high}}, scratch);"
    emitter.use_scratch(scratch)
    emitter.use_zeros(x.shape[1] + DEPTHWISE)
    products = y.count * depth_channels * product(kernel)
    forms = two_forms(call, node, y, low, high)
    emitter.step(reads=[x], made=y, declarations=[declaration], products=products, **forms)


def check_depth(depth: int) -> None:
    """CompileError if sums of this many products could overflow int32."""
    if depth > DEEPEST:
        raise CompileError(f"sums of {depth} products could overflow int32: at most {DEEPEST} have a C form")


def _conv_scratch(depth: int, columns: int) -> int:
    check_depth(depth)
    blocks = -(-columns // CHANNELS)
    return depth * WORDS * WORD_BYTES + blocks * PIXELS * CHANNELS * 4


def batch_of(left: Sequence[int], right: Sequence[int]) -> int:
    """How many matrix products two operands' leading dimensions ask for, one for one.

    CompileError if one would be repeated for the other.
    """
    missing = len(left) - len(right)
    if missing < 0 or [1] * missing + list(right) != list(left):
        raise CompileError(f"batches {list(left)} and {list(right)} differ: repeating matrices has no C form")
    return product(left)


def operands(emitter: Emitter, node: onnx.NodeProto) -> tuple[Tensor, Tensor, int, int, int, int]:
    """(a, b, rows, depth, columns, batch) of a matrix product: `batch` products of these sizes.

    CompileError if the shapes do not multiply, or a matrix would be repeated.
    """
    a, b = emitter.tensor(node.input[0], "int8"), emitter.tensor(node.input[3], "int8")
    *left, rows, depth = a.shape
    *right, inner, columns = b.shape
    if inner != depth or len(a.shape) < 2:
        raise CompileError(f"shapes {list(a.shape)} and {list(b.shape)} do not multiply")
    if product(right) == 1:
        return a, b, product(a.shape[:-1]), depth, columns, 1
    return a, b, rows, depth, columns, batch_of(left, right)


def _matmul(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Rows of the left matrix are pixels of a 1 x 1 convolution; a right one made at run time is arranged."""
    a, b, rows, depth, columns, batch = operands(emitter, node)
    name, low, high = emitter.activation(node.output[0])
    a = emitter.in_order(a, plain(len(a.shape)))
    y = emitter.make(name, "int8", (*a.shape[:-1], columns))
    known = emitter.graph.constants.get(node.input[3])
    stacked = None if known is None else known.reshape(batch, depth, columns)
    arranged = -(-columns // CHANNELS) * CHANNELS * depth
    reads = [a]
    if stacked is not None:
        weights = emitter.data.add(np.stack([arrange(m) for m in stacked]))
    else:
        b = emitter.in_order(b, plain(len(b.shape)))
        reads.append(b)
        weights = "scratch"
    window = Window.of_rows(rows, depth)
    fields = [
        f".window = {window.initialiser()}",
        f".out_channels = {columns}, .groups = 1, .block = {block_of(stacked, depth)}",
        f".weights = (const int8_t *){weights}, {_bias(emitter, node, columns, 1, CHANNELS)}",
        _scaling(emitter, factor(emitter, node, 1, 4, 6), columns),
    ]
    # A product of its own for each matrix of the batch: the weights' address changes.
    declaration, descriptor = emitter.declare("topfive_convolution", "{" + ",\n    ".join(fields) + "}")
    lines = [f"for (int64_t i = 0; i < {batch}; i++) {{{{", f"    topfive_convolution c = {descriptor};"]
    if stacked is None:
        lines.append(
            f"    topfive_arrange_columns((int8_t *){b.address} + i * {depth * columns}, "
            f"(int8_t *)scratch, {depth}, {columns});"
        )
    else:
        lines.append(f"    c.weights += i * {arranged};")
    offset = -(-arranged // WORD_BYTES) * WORD_BYTES if stacked is None else 0
    lines += [
        f"    topfive_convolve(&c, (int8_t *){a.address} + i * {rows * depth},",
        f"        (int8_t *){y.address} + i * {rows * columns}, {{low}}, {{high}}, scratch + {offset});",
        "}}",
    ]
    emitter.use_scratch(offset + _conv_scratch(depth, columns))
    emitter.use_zeros(depth)
    forms = two_forms("\n".join(lines), node, y, low, high)
    emitter.step(reads=reads, made=y, declarations=[declaration], products=y.count * depth, **forms)


def _add(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Each addend is scaled, rounded and saturated first: a table of 256 codes does it."""
    a, b = emitter.tensor(node.input[0], "int8"), emitter.tensor(node.input[3], "int8")
    if a.shape != b.shape:
        raise CompileError(f"shapes {list(a.shape)} and {list(b.shape)} differ")
    y_scale = np.float32(emitter.number(node, 6))
    tables = [
        emitter.data.add(arithmetic.mvin_scale(ALL_CODES, np.float32(emitter.number(node, i)) / y_scale))
        for i in (1, 4)
    ]
    name, low, high = emitter.activation(node.output[0])
    b = emitter.in_order(b, a.order)
    y = emitter.make(name, "int8", a.shape, a.order)
    call = (
        f"topfive_add_codes({a.address}, {b.address}, {y.address}, {y.count}, {', '.join(tables)}, "
        "{low}, {high});"
    )
    emitter.step(reads=[a, b], made=y, **two_forms(call, node, y, low, high))


def look_up(emitter: Emitter, node: onnx.NodeProto, table: NDArray[np.int8]) -> None:
    """A step that maps every code through a table [256], indexed by the code's bits."""
    x = emitter.tensor(node.input[0], "int8")
    y = emitter.make(node.output[0], "int8", x.shape, x.order)
    address = emitter.data.add(table)
    emitter.step([f"topfive_look_up({x.address}, {y.address}, {y.count}, {address});"], [x], y)


def clip_codes(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Relu or Clip on codes that no producer took in."""
    look_up(emitter, node, np.clip(ALL_CODES, *emitter.code_bounds(node)))


def _table(emitter: Emitter, node: onnx.NodeProto) -> None:
    """ONNX Runtime's own table operators, evaluated for all codes."""
    from topfive.targets.gemmini.reference import run_node

    values = [ALL_CODES, *(emitter.value(node, i) for i in range(1, len(node.input)))]
    given = [np.empty(0, np.int8) if v is None else v for v in values]
    look_up(emitter, node, run_node(node, given, emitter.graph.opset)[0])


def _quantize(emitter: Emitter, node: onnx.NodeProto) -> None:
    x, zero = emitter.tensor(node.input[0], "float32"), emitter.value(node, 2)
    if zero is None or zero.dtype != np.int8 or zero.any():
        raise CompileError("codes have to be int8 with zero point 0")
    y = emitter.make(node.output[0], "int8", x.shape, x.order)
    scale = _float_literal(emitter.number(node, 1))
    emitter.step([f"topfive_quantize({x.address}, {y.address}, {y.count}, {scale});"], [x], y)


def _dequantize(emitter: Emitter, node: onnx.NodeProto) -> None:
    x, zero = emitter.tensor(node.input[0], "int8"), emitter.value(node, 2)
    if zero is not None and zero.any():
        raise CompileError("codes have to be int8 with zero point 0")
    y = emitter.make(node.output[0], "float32", x.shape, x.order)
    scale = _float_literal(emitter.number(node, 1))
    emitter.step([f"topfive_dequantize({x.address}, {y.address}, {y.count}, {scale});"], [x], y)


def _float_literal(value: float) -> str:
    return f"{float(value).hex()}f"


def pool_codes(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Max pool on codes; padded positions count as 0."""
    x = emitter.in_order(emitter.tensor(node.input[0], "int8"), CHANNELS_LAST)
    attrs = attributes(node)
    window = window_of(attrs, x.shape, tuple(attrs["kernel_shape"]))
    y = emitter.make(node.output[0], "int8", (*x.shape[:2], window.out_rows, window.out_cols), CHANNELS_LAST)
    emitter.use_zeros(x.shape[1])
    declaration, name = emitter.declare("topfive_window", window.initialiser())
    code = [f"topfive_max_pool_codes(&{name}, {x.address}, {y.address});"]
    emitter.step(code, [x], y, declarations=[declaration])


RULES: dict[str, Rule] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QLinearAdd": _add,
    "QLinearRelu": clip_codes,
    "QLinearLeakyRelu": _table,
    "QLinearSigmoid": _table,
}
