"""A network for LoadGen's runs that tells bright pictures from dark ones, and can be made to break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.targets.base import Artifact

SIDE = 8


def brightness(folder: Path, *, white: str = "", softmax: bool = False) -> Artifact:
    """The class is 0 for dark pictures, 1 for bright ones; a white one fails or never ends, if asked."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
    ]
    constants = {"w": np.array([[-1.0, 1.0]] * 3, np.float32), "b": np.zeros(2, np.float32)}
    if white:
        constants |= {"limit": np.float32(2.2), "zero": np.int64(0), "yes": np.bool_(True)}
        constants |= {"huge": np.int64(2**61 if white == "hang" else 7)}
        nodes += [
            helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "limit"], ["g"]),
            helper.make_node("Where", ["g", "huge", "zero"], ["i"]),
        ]
        if white == "fail":
            nodes += [helper.make_node("Gather", ["f", "i"], ["h"], axis=1)]
        else:
            body = helper.make_graph(
                [
                    helper.make_node("Identity", ["c"], ["c2"]),
                    helper.make_node("Identity", ["v"], ["v2"]),
                ],
                "body",
                [
                    helper.make_tensor_value_info("n", TensorProto.INT64, []),
                    helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
                ],
                [
                    helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
                ],
            )
            nodes += [helper.make_node("Loop", ["i", "yes", "f"], ["h"], body=body)]
        constants["none"] = np.float32(0)
        nodes += [
            helper.make_node("ReduceMax", ["h"], ["hm"], keepdims=0),
            helper.make_node("Mul", ["hm", "none"], ["hz"]),
            helper.make_node("Add", ["f", "hz"], ["f2"]),
        ]
    nodes.append(helper.make_node("Gemm", ["f2" if white else "f", "w", "b"], ["z" if softmax else "y"]))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"], axis=1))
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(exist_ok=True)
    path = folder / f"brightness_{white or 'plain'}.onnx"
    onnx.save(model, path)
    return topfive.build(path, target="cpu", quant="force_float32", cache=folder / "cache")


def crops_of(bright: list[int]) -> np.ndarray:
    levels = np.array(bright, np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (len(bright), SIDE, SIDE, 3)).copy()


CROPS = crops_of([0, 200, 10, 220, 30, 210, 20, 190] * 3)
LABELS = [0, 1] * 12
