"""Measuring the statistics that make the light networks behave: once, by a person, into statistics.json.

Nobody runs this to use a light model; a change of a committed number changes the weights of every user.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime

from topfive.sources.light.graph import OPSET, skeleton
from topfive.sources.light.weights import blocks

__all__ = ["measure", "pictures"]

CLASSES = 1000
LOGIT_STD = 2.0
"""Standard deviation over the classes that the gain of the last layer is chosen to give."""


def measure(architecture: str, count: int = 16) -> dict[str, Any]:
    """Statistics of one architecture on `count` seeded pictures, as topfive.sources.light.weights.Table.

    The network is run one layer at a time with seed 0; each batch normalisation gets the mean and variance of
    its input over all pictures, channels and positions, rounded to 3 digits before the next layer is run.
    The offset of the last layer takes away the mean of its output over all pictures and positions; its gain
    then gives the logits of a picture LOGIT_STD as standard deviation over the classes, on average.
    """
    frame = skeleton(architecture)
    table: dict[str, Any] = {"gain": 1.0, "mean": {}, "variance": {}, "offset": [0.0] * CLASSES}
    offset = np.zeros(CLASSES)
    values = {"data": pictures(count)}
    weights = {weight.name: weight for weight in frame.weights}
    uses = Counter(name for node in frame.model.graph.node for name in node.input)
    for tensor in frame.model.graph.initializer:
        values[tensor.name] = onnx.numpy_helper.to_array(tensor)
    for node in frame.model.graph.node:
        if node.op_type == "BatchNormalization":
            data = values[node.input[0]].astype(np.float64)
            table["mean"][node.name] = _rounded(data.mean())
            table["variance"][node.name] = _rounded(data.var())
        inputs = {}
        for name in node.input:
            if name in weights:
                flat = np.concatenate(list(blocks(weights[name], 0, table, frame.classifier)))
                inputs[name] = flat.reshape(weights[name].dims)
            else:
                inputs[name] = values[name]
        output = values[node.output[0]] = _run(node, inputs)
        if node.name == frame.classifier:
            offset = -output.astype(np.float64).mean(axis=(0, *range(2, output.ndim)))
            output += offset.astype(np.float32).reshape(-1, *[1] * (output.ndim - 2))
        uses.subtract(node.input)
        values = {name: value for name, value in values.items() if uses[name] > 0 or name == "logits"}
    table["gain"] = _rounded(LOGIT_STD / values["logits"].astype(np.float64).std(axis=1).mean())
    table["offset"] = [_rounded(value) for value in offset * table["gain"]]
    return table


def pictures(count: int) -> np.ndarray:
    """Float32 [count, 3, 224, 224]: random squares of 2 to 112 pixels, colour and contrast.

    About as different from each other as normalised photographs are; mean near 0 and variance near 1.
    """
    random = np.random.Generator(np.random.PCG64(5))
    out = np.zeros((count, 3, 224, 224), np.float32)
    for side in (112, 32, 8, 2):
        cells = random.uniform(-1.0, 1.0, (count, 3, 224 // side, 224 // side))
        grey = random.uniform(-1.0, 1.0, (count, 1, 224 // side, 224 // side))
        strength = random.uniform(0.0, 1.0, (count, 1, 1, 1))
        out += (strength * (0.5 * cells + grey)).repeat(side, axis=2).repeat(side, axis=3).astype(np.float32)
    colour = random.uniform(-1.0, 1.0, (count, 3, 1, 1))
    return out * random.uniform(0.5, 1.5, (count, 1, 1, 1)).astype(np.float32) + colour.astype(np.float32)


def _rounded(value: np.floating[Any] | float) -> float:
    return float(f"{float(value):.3g}")


def _run(node: onnx.NodeProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    declare = onnx.helper.make_tensor_value_info
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in inputs.items()}
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [declare(name, types[name], value.shape) for name, value in inputs.items()],
        [declare(node.output[0], onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (output,) = session.run(None, inputs)
    return np.array(output)
