"""Small int8 ONNX graphs that tests build by hand, as the quantize stage would."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    output: str,
    constants: dict[str, Any],
    *,
    dtype: int = TensorProto.INT8,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model whose inputs and one output are int8 (or `dtype`)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, dtype, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def unit_constants() -> dict[str, Any]:
    return {"one": np.float32(1), "zero": np.int8(0)}


def conv(
    x_shape: tuple[int, ...],
    weights: np.ndarray,
    bias: np.ndarray | None,
    scale: float,
    *,
    relu: bool = False,
    pool: dict[str, Any] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    """int8 NCHW input `x`, QLinearConv with multiplier `scale`, optional ReLU and max pool."""
    constants = {**unit_constants(), "w": weights, "ws": np.asarray(scale, np.float32)}
    inputs = ["x", "one", "zero", "w", "ws", "zero", "one", "zero"]
    if bias is not None:
        constants["b"] = bias.astype(np.int32)
        inputs.append("b")
    nodes = [helper.make_node("QLinearConv", inputs, ["conv"], name="conv", **attrs)]
    last = "conv"
    if relu:
        nodes.append(helper.make_node("Relu", [last], ["relu"], name="relu"))
        last = "relu"
    if pool:
        nodes.append(helper.make_node("MaxPool", [last], ["pool"], name="pool", **pool))
        last = "pool"
    return model(nodes, {"x": x_shape}, last, constants)


def matmul(a_shape: tuple[int, ...], b: np.ndarray | tuple[int, ...], scale: float) -> onnx.ModelProto:
    """int8 `a` times a constant or a second int8 input `b`."""
    constants = {**unit_constants(), "s": np.float32(scale)}
    inputs: dict[str, tuple[Any, ...]] = {"a": a_shape}
    if isinstance(b, np.ndarray):
        constants["b"] = b
    else:
        inputs["b"] = b
    node = helper.make_node(
        "QLinearMatMul", ["a", "s", "zero", "b", "one", "zero", "one", "zero"], ["y"], name="mm"
    )
    return model([node], inputs, "y", constants)


def add(
    shape: tuple[int, ...], a_scale: float, b_scale: float, y_scale: float, *, relu: bool
) -> onnx.ModelProto:
    """A residual add of two int8 inputs."""
    constants = {
        **unit_constants(),
        "as": np.float32(a_scale),
        "bs": np.float32(b_scale),
        "ys": np.float32(y_scale),
    }
    inputs = ["a", "as", "zero", "b", "bs", "zero", "ys", "zero"]
    nodes = [helper.make_node("QLinearAdd", inputs, ["sum"], name="add", domain=MICROSOFT)]
    if relu:
        nodes.append(helper.make_node("Relu", ["sum"], ["y"], name="relu"))
    return model(nodes, {"a": shape, "b": shape}, "y" if relu else "sum", constants)
