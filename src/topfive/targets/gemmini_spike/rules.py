"""Operators that Gemmini takes: convolutions, products and residual additions; the rest is scalar C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import CompileError
from topfive.graph import attributes
from topfive.targets.gemmini.tiling import NO_POOL, Pool
from topfive.targets.gemmini_qemu import integer_rules
from topfive.targets.gemmini_qemu.data import scalings
from topfive.targets.gemmini_qemu.emitter import Emitter, Rule, product
from topfive.targets.gemmini_qemu.kit import SCALAR_RULES
from topfive.targets.gemmini_qemu.tensors import CHANNELS_LAST, Tensor, plain
from topfive.targets.gemmini_qemu.windows import Window, window_of
from topfive.targets.gemmini_spike.convolutions import (
    MOST_POOL,
    MOST_POOLED,
    Convolution,
    plan_convolution,
    square,
)
from topfive.targets.gemmini_spike.machine import DIM, Instructions
from topfive.targets.gemmini_spike.products import Product, plan_addition, plan_product
from topfive.targets.gemmini_spike.scales import addend_factor, largest_sum, store_factor

__all__ = ["rules"]

Bounds = tuple[int, int]


def rules(dataflow: str) -> Mapping[str, Rule]:
    """The rules of a program in this dataflow: "ws" or "os"."""
    return {
        **SCALAR_RULES,
        "QLinearConv": partial(_conv, dataflow),
        "QLinearMatMul": partial(_matmul, dataflow),
        "QLinearAdd": _add,
    }


@dataclass(frozen=True)
class _Layer:
    """A convolution as groups of matrices.

    weights: [groups, kernel rows, kernel columns, group_in, group_out]; bias: int32 [groups, group_out], both
    filled up with zeros in a last group of fewer channels. factors: one, or one an output channel.
    """

    window: Window
    out_channels: int
    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    factors: NDArray[np.float32]

    @property
    def groups(self) -> int:
        return len(self.weights)

    @property
    def sizes(self) -> tuple[int, int]:
        """(group_in, group_out)."""
        return self.weights.shape[3], self.weights.shape[4]

    @property
    def depth(self) -> int:
        return product(self.weights.shape[1:4])

    @property
    def matrices(self) -> NDArray[np.int8]:
        return self.weights.reshape(self.groups, self.depth, -1)


def _layer(emitter: Emitter, node: onnx.NodeProto, x: Tensor) -> _Layer:
    weights = emitter.value(node, 3)
    if weights is None or weights.ndim != 4 or len(x.shape) != 4:
        raise CompileError("only two-dimensional convolutions have a C form")
    attrs = attributes(node)
    groups, out_channels, (_, depth, *kernel) = attrs.get("group", 1), weights.shape[0], weights.shape
    window = window_of(attrs, x.shape, (kernel[0], kernel[1]))
    integer_rules.check_depth(depth * product(kernel))
    factors = integer_rules.factor(emitter, node, 1, 4, 6)
    if factors.size not in (1, out_channels):
        raise CompileError(f"{factors.size} scales for {out_channels} channels")
    given = emitter.value(node, 8)
    bias = np.zeros(out_channels, np.int32) if given is None else np.asarray(given, np.int32)
    if groups == out_channels == x.shape[1] and depth == 1 and factors.size == 1:
        arranged, bias = _diagonal(weights[:, 0]), np.pad(bias, (0, -out_channels % DIM)).reshape(-1, DIM)
    else:
        arranged = weights.reshape(groups, -1, depth, *kernel).transpose(0, 3, 4, 2, 1)
        bias = bias.reshape(groups, -1)
    return _Layer(window, out_channels, np.ascontiguousarray(arranged), bias, factors)


def _diagonal(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Depthwise weights [channels, rows, columns] as diagonal matrices of 16 channels each.

    The array then multiplies 16 channels of a pixel at once. They share one scale; with a scale a channel,
    each is a group of its own.
    """
    channels, rows, columns = weights.shape
    filled = np.pad(weights, ((0, -channels % DIM), (0, 0), (0, 0))).reshape(-1, DIM, rows, columns)
    made = np.zeros((len(filled), rows, columns, DIM, DIM), np.int8)
    lane = np.arange(DIM)
    made[:, :, :, lane, lane] = filled.transpose(0, 2, 3, 1)
    return made


@dataclass(frozen=True)
class _Store:
    """How sums become codes: the C text of a gemmini_requantisation, and whether sums are stored whole."""

    text: str
    whole: bool


def _store(emitter: Emitter, factors: NDArray[np.float32], groups: int, group_out: int, most: int) -> _Store:
    """Gemmini scales a group's sums by one factor while storing; what it cannot do, the processor does."""
    named = factors
    if factors.size > 1:
        filled = np.pad(factors, (0, groups * group_out - factors.size), mode="edge").reshape(groups, -1)
        named = filled[:, 0] if (filled == filled[:, :1]).all() else named[:0]
    safe = [store_factor(factor, most) for factor in named]
    if safe and all(factor is not None for factor in safe):
        address = emitter.data.add(np.array(safe, np.float32))
        return _Store(f"{{{address}, {int(len(safe) > 1)}, NULL, 0}}", whole=False)
    address = emitter.data.add(scalings(factors))
    return _Store(f"{{NULL, 0, {address}, {int(factors.size > 1)}}}", whole=True)


def _conv(dataflow: str, emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0], "int8")
    layer = _layer(emitter, node, x)
    name, low, high = emitter.activation(node.output[0])
    x = emitter.in_order(x, CHANNELS_LAST)
    most = largest_sum(layer.matrices, layer.bias, layer.depth)
    store = _store(emitter, layer.factors, layer.groups, layer.sizes[1], most)
    shape = (x.shape[0], layer.out_channels, layer.window.out_rows, layer.window.out_cols)
    if store.whole:
        emitter.use_scratch(4 * product(shape))
    if dataflow == "ws" and square(layer.window) is not None:
        _emit_convolution(emitter, node, layer, store, x, shape, (name, (low, high)))
    else:
        _emit_unrolled(dataflow, emitter, node, layer, store, x, shape, (name, (low, high)))


def _emit_convolution(
    emitter: Emitter,
    node: onnx.NodeProto,
    layer: _Layer,
    store: _Store,
    x: Tensor,
    shape: tuple[int, ...],
    activated: tuple[str, Bounds],
) -> None:
    """Weight stationary, with the max pool that follows where the store can do it."""
    name, bounds = activated
    pool, pooled_name = NO_POOL, name
    if not store.whole and bounds[0] <= 0 <= bounds[1]:
        pool, pooled_name = _fused_pool(emitter, name, layer.window)
    conv = plan_convolution(layer.window, layer.out_channels, layer.groups, *layer.sizes)
    parts = (emitter.data.add(layer.weights), emitter.data.add(layer.bias), store.text)
    declaration, descriptor = emitter.declare("gemmini_convolution", conv.initialiser(*parts))
    more: dict[str, Any] = {"declarations": [declaration], "products": _products(layer)}
    if pool == NO_POOL:
        y = emitter.make(name, "int8", shape, CHANNELS_LAST)
        call = _call("gemmini_convolve", descriptor, [x.address, y.address], "scratch")
        more |= integer_rules.two_forms(call, node, y, *bounds)
    else:
        fused = plan_convolution(layer.window, layer.out_channels, layer.groups, *layer.sizes, pool)
        y = emitter.make(pooled_name, "int8", (*shape[:2], *fused.pooled), CHANNELS_LAST)
        more |= _pooled_forms(emitter, node, fused, parts, x, y, (descriptor, shape), activated)
        more["declarations"] = [declaration, *more["declarations"]]
        conv = fused
    emitter.step(reads=[x], made=y, accelerator=conv.instructions(), **more)


def _pooled_forms(
    emitter: Emitter,
    node: onnx.NodeProto,
    fused: Convolution,
    parts: tuple[str, str, str],
    x: Tensor,
    y: Tensor,
    unpooled: tuple[str, tuple[int, ...]],
    activated: tuple[str, Bounds],
) -> dict[str, Any]:
    """The step with its pool, and before it the step without, in memory that nothing else uses."""
    name, bounds = activated
    descriptor, shape = unpooled
    inner = emitter.temporary(name, "int8", shape, CHANNELS_LAST)
    declaration = f"static const gemmini_convolution pooled_{descriptor} = {fused.initialiser(*parts)};"
    call = _call("gemmini_convolve", f"pooled_{descriptor}", [x.address, y.address], "scratch")
    alone = _call("gemmini_convolve", descriptor, [x.address, inner.address], "scratch")
    forms = integer_rules.two_forms(alone, node, inner, *bounds)
    return {
        "code": [call.format(low=bounds[0], high=bounds[1])],
        "before": [*forms.get("before", []), (forms["code"], inner)],
        "declarations": [declaration],
        "inner": (inner.storage,),
    }


def _fused_pool(emitter: Emitter, name: str, window: Window) -> tuple[Pool, str]:
    """(size, stride, padding) and result of the max pool that alone reads `name`, if the store can do it."""
    node = emitter.sole_reader(name)
    if node is None or node.op_type != "MaxPool" or len([o for o in node.output if o]) > 1:
        return NO_POOL, name
    attrs = attributes(node)
    kernel, strides = attrs["kernel_shape"], attrs.get("strides") or [1, 1]
    pads, dilations = attrs.get("pads") or [0] * 4, attrs.get("dilations") or [1, 1]
    plain_form = attrs.get("auto_pad", "NOTSET") == "NOTSET" and not attrs.get("ceil_mode", 0)
    same = all(len({*values}) == 1 for values in (kernel, strides, pads, dilations))
    if not plain_form or not same or len(kernel) != 2 or dilations[0] != 1 or attrs.get("storage_order", 0):
        return NO_POOL, name
    pool = (int(kernel[0]), int(strides[0]), int(pads[0]))
    if max(pool) > MOST_POOL or max(window.out) > MOST_POOLED:
        return NO_POOL, name
    emitter.absorb(node)
    return pool, node.output[0]


def _emit_unrolled(
    dataflow: str,
    emitter: Emitter,
    node: onnx.NodeProto,
    layer: _Layer,
    store: _Store,
    x: Tensor,
    shape: tuple[int, ...],
    activated: tuple[str, Bounds],
) -> None:
    """As a matrix product: the processor gathers each output pixel's inputs, unless they lie so already."""
    name, bounds = activated
    window, (group_in, group_out) = layer.window, layer.sizes
    pointwise = product(window.kernel) == product(window.stride) == 1 and window.out == window.size
    direct = pointwise and x.shape[1] == layer.groups * group_in
    plan = plan_product(
        dataflow,
        rows=product(window.out),
        depth=layer.depth,
        columns=group_out,
        weights=layer.matrices,
        groups=layer.groups,
        out_channels=layer.out_channels,
        group_in=group_in,
        a_step=x.shape[1] if direct else 0,
        window=None if direct else window,
    )
    y = emitter.make(name, "int8", shape, CHANNELS_LAST)
    weights, bias = emitter.data.add(layer.weights), emitter.data.add(layer.bias)
    declaration, descriptor = emitter.declare("gemmini_product", plan.initialiser(bias, store.text))
    _use_scratch(emitter, plan, y if store.whole else None)
    call = _call("gemmini_multiply", descriptor, [x.address, weights, y.address], "scratch")
    forms = integer_rules.two_forms(call, node, y, *bounds)
    more: dict[str, Any] = {"products": _products(layer), "accelerator": plan.instructions()}
    emitter.step(reads=[x], made=y, declarations=[declaration], **more, **forms)


def _products(layer: _Layer) -> int:
    """Products that the array forms, those of a diagonal matrix's zeros included."""
    return product(layer.window.out) * layer.weights.size


def _use_scratch(emitter: Emitter, plan: Product, whole: Tensor | None) -> None:
    emitter.use_scratch(plan.gathered_bytes + (0 if whole is None else 4 * whole.count))


def _call(function: str, descriptor: str, addresses: list[str], *more: str) -> str:
    """A call's text in which the bounds are still to be filled in."""
    arguments = ", ".join([f"&{descriptor}", *addresses, "{low}", "{high}", *more])
    return f"{function}({arguments});"


def _matmul(dataflow: str, emitter: Emitter, node: onnx.NodeProto) -> None:
    operands = integer_rules.operands(emitter, node)
    a, b, rows, depth, columns, batch = operands
    integer_rules.check_depth(depth)
    name, low, high = emitter.activation(node.output[0])
    a, b = emitter.in_order(a, plain(len(a.shape))), emitter.in_order(b, plain(len(b.shape)))
    y = emitter.make(name, "int8", (*a.shape[:-1], columns))
    known = emitter.graph.constants.get(node.input[3])
    weights = None if known is None else known.reshape(batch, depth, columns)
    factors = integer_rules.factor(emitter, node, 1, 4, 6)
    if factors.size not in (1, columns):
        raise CompileError(f"{factors.size} scales for {columns} columns")
    store = _store(emitter, factors, 1, columns, largest_sum(weights, None, depth))
    plan = plan_product(dataflow, rows=rows, depth=depth, columns=columns, weights=weights)
    bias = emitter.data.add(np.zeros(columns, np.int32))
    declaration, descriptor = emitter.declare("gemmini_product", plan.initialiser(bias, store.text))
    _use_scratch(emitter, plan, y if store.whole else None)
    steps = ((a, rows * depth), (b, depth * columns), (y, rows * columns))
    places = [f"(int8_t *){x.address} + i * {size}" for x, size in steps]
    call = f"for (int64_t i = 0; i < {batch}; i++)\n    " + _call(
        "gemmini_multiply", descriptor, places, "scratch"
    )
    issued = Instructions({kind: count * batch for kind, count in plan.instructions().items()})
    forms = integer_rules.two_forms(call, node, y, low, high)
    more: dict[str, Any] = {"products": y.count * depth, "accelerator": issued}
    emitter.step(reads=[a, b], made=y, declarations=[declaration], **more, **forms)


def _add(emitter: Emitter, node: onnx.NodeProto) -> None:
    """Each addend is scaled, rounded and saturated while it is loaded, and added up in the accumulator."""
    a, b = emitter.tensor(node.input[0], "int8"), emitter.tensor(node.input[3], "int8")
    y_scale = np.float32(emitter.number(node, 6))
    factors = [addend_factor(np.float32(emitter.number(node, i)) / y_scale) for i in (1, 4)]
    if a.shape != b.shape or a.storage < 0 or b.storage < 0 or None in factors:
        SCALAR_RULES[node.op_type](emitter, node)
        return
    name, low, high = emitter.activation(node.output[0])
    b = emitter.in_order(b, a.order)
    y = emitter.make(name, "int8", a.shape, a.order)
    columns = a.shape[a.order[-1]]
    plan = plan_addition(a.count // columns, columns)
    literals = [f"{float(factor).hex()}f" for factor in factors if factor is not None]
    declaration, descriptor = emitter.declare("gemmini_addition", plan.initialiser(literals))
    call = _call("gemmini_add", descriptor, [a.address, b.address, y.address])
    forms = integer_rules.two_forms(call, node, y, low, high)
    emitter.step(reads=[a, b], made=y, declarations=[declaration], accelerator=plan.instructions(), **forms)
