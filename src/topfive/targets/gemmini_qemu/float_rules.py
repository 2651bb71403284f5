"""Float operators in C: the islands between dequantising and quantising, and a model's tail."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from topfive.errors import CompileError
from topfive.graph import attributes
from topfive.targets.gemmini_qemu import integer_rules
from topfive.targets.gemmini_qemu.emitter import Emitter, Rule, product
from topfive.targets.gemmini_qemu.tensors import CHANNELS_LAST, Loop, Order, Tensor, plain, walk
from topfive.targets.gemmini_qemu.windows import window_of

__all__ = ["RULES"]

LARGEST = float(np.finfo(np.float32).max)


def _literal(value: float) -> str:
    return f"{float(np.float32(value)).hex()}f"


def _each(emitter: Emitter, node: onnx.NodeProto, function: str, *numbers: float) -> None:
    """y = function(x), element by element."""
    x = emitter.tensor(node.input[0], "float32")
    y = emitter.make(node.output[0], "float32", x.shape, x.order)
    more = "".join(f", {_literal(n)}" for n in numbers)
    emitter.step([f"{function}({x.address}, {y.address}, {y.count}{more});"], [x], y)


def _function(function: str) -> Rule:
    def rule(emitter: Emitter, node: onnx.NodeProto) -> None:
        _each(emitter, node, function)

    return rule


def _relu(emitter: Emitter, node: onnx.NodeProto) -> None:
    if emitter.tensor(node.input[0]).dtype == "int8":
        integer_rules.clip_codes(emitter, node)
    else:
        _each(emitter, node, "topfive_clip", 0.0, LARGEST)


def _clip(emitter: Emitter, node: onnx.NodeProto) -> None:
    if emitter.tensor(node.input[0]).dtype == "int8":
        integer_rules.clip_codes(emitter, node)
        return
    bounds = (emitter.number(node, 1, -LARGEST), emitter.number(node, 2, LARGEST))
    _each(emitter, node, "topfive_clip", *bounds)


def _leaky_relu(emitter: Emitter, node: onnx.NodeProto) -> None:
    _each(emitter, node, "topfive_leaky_relu", attributes(node).get("alpha", 0.01))


def _broadcast_steps(x: Tensor, rank: int) -> list[int]:
    steps = [0 if n == 1 else step for n, step in zip(x.shape, x.steps, strict=True)]
    return [0] * (rank - len(steps)) + steps


def _two(function: str, emitter: Emitter, node: onnx.NodeProto) -> None:
    """y = a op b, with ONNX's (numpy's) broadcasting."""
    a, b = (emitter.tensor(name, "float32") for name in node.input)
    _combine(emitter, function, a, b, node.output[0])


def _combine(emitter: Emitter, function: str, a: Tensor, b: Tensor, name: str, *, shown: bool = True) -> None:
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise CompileError(f"shapes {list(a.shape)} and {list(b.shape)} do not broadcast") from None
    order = next((x.order for x in (a, b) if x.shape == shape and x.storage >= 0), plain(len(shape)))
    y = emitter.make(name, "float32", shape, order)
    a_steps, b_steps = _broadcast_steps(a, len(shape)), _broadcast_steps(b, len(shape))
    loops = [Loop(shape[i], y.steps[i], a_steps[i], b_steps[i]) for i in order]
    declaration, walked = emitter.declare("topfive_walk", walk(loops))
    code = [f"{function}(&{walked}, {a.address}, {b.address}, {y.address});"]
    emitter.step(code, [a, b], y, declarations=[declaration], shown=shown)


def _batch_norm(emitter: Emitter, node: onnx.NodeProto) -> None:
    """x * (scale / deviation) + (bias - mean * scale / deviation), a factor and a term a channel."""
    x = emitter.tensor(node.input[0], "float32")
    values = [emitter.value(node, i) for i in range(1, 5)]
    scale, bias, mean, variance = (np.asarray(v, np.float64) for v in values)
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    shape = (-1, *(1 for _ in x.shape[2:]))
    names = [f"{node.output[0]}.{part}" for part in ("factor", "term", "scaled")]
    for name, value in zip(names, (factor, bias - mean * factor), strict=False):
        emitter.graph.constants[name] = value.astype(np.float32).reshape(shape)
    _combine(emitter, "topfive_multiply", x, emitter.tensor(names[0]), names[2], shown=False)
    _combine(emitter, "topfive_add", emitter.tensor(names[2]), emitter.tensor(names[1]), node.output[0])


def _power(emitter: Emitter, node: onnx.NodeProto) -> None:
    exponent = emitter.number(node, 1)
    if exponent == 2.0:
        x = emitter.tensor(node.input[0], "float32")
        _combine(emitter, "topfive_multiply", x, x, node.output[0])
    elif exponent == 0.5:
        _each(emitter, node, "topfive_sqrt")
    else:
        raise CompileError(f"only the powers 2 and 0.5 have a C form, not {exponent}")


def _softmax(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0], "float32")
    rank = len(x.shape)
    x = emitter.in_order(x, plain(rank))
    flat = emitter.graph.opset < 13
    axis = attributes(node).get("axis", 1 if flat else -1) % rank
    count = product(x.shape[axis:]) if flat else x.shape[axis]
    outer = product(x.shape[:axis])
    y = emitter.make(node.output[0], "float32", x.shape)
    sizes = f"{outer}, {count}, {x.count // (outer * count)}"
    emitter.step([f"topfive_softmax({x.address}, {y.address}, {sizes});"], [x], y)


def _mean(emitter: Emitter, node: onnx.NodeProto, axes: set[int], keep: bool) -> None:
    """The mean over axes, which are brought next to each other in memory if they are not."""
    x = emitter.tensor(node.input[0], "float32")
    kept = [a for a in range(len(x.shape)) if a not in axes]
    positions = [i for i, a in enumerate(x.order) if a in axes]
    if positions != list(range(positions[0], positions[0] + len(positions))):
        x = emitter.in_order(x, (*kept, *sorted(axes)))
        positions = [i for i, a in enumerate(x.order) if a in axes]
    outer = product([x.shape[a] for a in x.order[: positions[0]]])
    count = product([x.shape[a] for a in axes])
    if keep:
        shape = [1 if a in axes else n for a, n in enumerate(x.shape)]
        order: Order = x.order
    else:
        shape = [x.shape[a] for a in kept]
        order = tuple(kept.index(a) for a in x.order if a not in axes)
    y = emitter.make(node.output[0], "float32", shape, order)
    sizes = f"{outer}, {count}, {x.count // (outer * count)}"
    emitter.step([f"topfive_mean({x.address}, {y.address}, {sizes});"], [x], y)


def _global_average(emitter: Emitter, node: onnx.NodeProto) -> None:
    rank = len(emitter.tensor(node.input[0]).shape)
    _mean(emitter, node, set(range(2, rank)), keep=True)


def _reduce_mean(emitter: Emitter, node: onnx.NodeProto) -> None:
    attrs = attributes(node)
    rank = len(emitter.tensor(node.input[0]).shape)
    given = attrs.get("axes")
    value = emitter.value(node, 1) if given is None else None
    numbers = given if value is None else value.ravel().tolist()
    axes = {int(a) % rank for a in numbers} if numbers else set(range(rank))
    _mean(emitter, node, axes, bool(attrs.get("keepdims", 1)))


def _layer_norm(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0], "float32")
    rank = len(x.shape)
    x = emitter.in_order(x, plain(rank))
    attrs = attributes(node)
    axis = attrs.get("axis", -1) % rank
    count = product(x.shape[axis:])
    weights = [emitter.tensor(name, "float32") for name in node.input[1:] if name]
    if any(w.count != count for w in weights):
        raise CompileError("scale and bias have to have the normalised shape")
    y = emitter.make(node.output[0], "float32", x.shape)
    bias = weights[1].address if len(weights) > 1 else "NULL"
    sizes = f"{x.count // count}, {count}, {_literal(attrs.get('epsilon', 1e-5))}"
    call = f"topfive_layer_norm({x.address}, {y.address}, {sizes}, {weights[0].address}, {bias});"
    emitter.step([call], [x, *weights], y)


def _channel_norm(emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.tensor(node.input[0], "float32")
    if len(x.shape) != 4:
        raise CompileError("only pictures have a C form")
    x = emitter.in_order(x, CHANNELS_LAST)
    attrs = attributes(node)
    y = emitter.make(node.output[0], "float32", x.shape, CHANNELS_LAST)
    numbers = [attrs.get("alpha", 1e-4), attrs.get("beta", 0.75), attrs.get("bias", 1.0)]
    sizes = f"{x.count // x.shape[1]}, {x.shape[1]}, {attrs['size']}, {', '.join(map(_literal, numbers))}"
    emitter.step([f"topfive_channel_norm({x.address}, {y.address}, {sizes});"], [x], y)


def _gemm(emitter: Emitter, node: onnx.NodeProto) -> None:
    attrs = attributes(node)
    x, w = (emitter.tensor(name, "float32") for name in node.input[:2])
    x = emitter.in_order(x, (1, 0) if attrs.get("transA") else (0, 1))
    w = emitter.in_order(w, (0, 1))
    depth, rows = x.shape if attrs.get("transA") else x.shape[::-1]
    columns, steps = (w.shape[0], (1, depth)) if attrs.get("transB") else (w.shape[1], (w.shape[1], 1))
    reads, bias, bias_steps = [x, w], "NULL", [0, 0]
    if len(node.input) > 2 and node.input[2]:
        added = emitter.tensor(node.input[2], "float32")
        reads.append(added)
        bias, bias_steps = added.address, _broadcast_steps(added, 2)
    y = emitter.make(node.output[0], "float32", (rows, columns))
    sizes = f"{rows}, {depth}, {columns}, {steps[0]}, {steps[1]}, {_literal(attrs.get('alpha', 1.0))}"
    tail = f"{bias}, {bias_steps[0]}, {bias_steps[1]}, {_literal(attrs.get('beta', 1.0))}"
    emitter.step([f"topfive_matmul({x.address}, {w.address}, {y.address}, {sizes}, {tail});"], reads, y)


def _matmul(emitter: Emitter, node: onnx.NodeProto) -> None:
    a, b = (emitter.tensor(name, "float32") for name in node.input)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise CompileError(f"shapes {list(a.shape)} and {list(b.shape)} have no C form")
    a, b = (emitter.in_order(x, plain(len(x.shape))) for x in (a, b))
    rows, (depth, columns), batch = a.shape[-2], b.shape[-2:], product(a.shape[:-2])
    if product(b.shape[:-2]) == 1:
        rows, batch = rows * batch, 1
    else:
        batch = integer_rules.batch_of(a.shape[:-2], b.shape[:-2])
    y = emitter.make(node.output[0], "float32", (*a.shape[:-1], columns))
    places = ", ".join(
        f"(float *){x.address} + i * {size}"
        for x, size in ((a, rows * depth), (b, depth * columns), (y, rows * columns))
    )
    call = f"topfive_matmul({places}, {rows}, {depth}, {columns}, {columns}, 1, 1, NULL, 0, 0, 0);"
    emitter.step([f"for (int64_t i = 0; i < {batch}; i++)", f"    {call}"], [a, b], y)


def _pool(function: str, more: str, emitter: Emitter, node: onnx.NodeProto) -> None:
    x = emitter.in_order(emitter.tensor(node.input[0], "float32"), CHANNELS_LAST)
    attrs = attributes(node)
    window = window_of(attrs, x.shape, tuple(attrs["kernel_shape"]))
    shape = (*x.shape[:2], window.out_rows, window.out_cols)
    y = emitter.make(node.output[0], "float32", shape, CHANNELS_LAST)
    declaration, name = emitter.declare("topfive_window", window.initialiser())
    emitter.step(
        [f"{function}(&{name}, {x.address}, {y.address}{more});"], [x], y, declarations=[declaration]
    )


def _max_pool(emitter: Emitter, node: onnx.NodeProto) -> None:
    if emitter.tensor(node.input[0]).dtype == "int8":
        integer_rules.pool_codes(emitter, node)
    else:
        _pool("topfive_max_pool", "", emitter, node)


def _average_pool(emitter: Emitter, node: onnx.NodeProto) -> None:
    _pool("topfive_average_pool", f", {attributes(node).get('count_include_pad', 0)}", emitter, node)


RULES: dict[str, Rule] = {
    "Add": partial(_two, "topfive_add"),
    "Sub": partial(_two, "topfive_subtract"),
    "Mul": partial(_two, "topfive_multiply"),
    "Div": partial(_two, "topfive_divide"),
    "Pow": _power,
    "Erf": _function("topfive_erf"),
    "Exp": _function("topfive_exp"),
    "Sigmoid": _function("topfive_sigmoid"),
    "Sqrt": _function("topfive_sqrt"),
    "Tanh": _function("topfive_tanh"),
    "Relu": _relu,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "Softmax": _softmax,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce_mean,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "LRN": _channel_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
}
