"""What a graph says of its tensors does not need the weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from topfive.cards import fixtures_root
from topfive.graph import MOST_OF_SHAPES, Graph

BUNDLED = sorted((fixtures_root() / "models").glob("*.onnx"))


def with_every_weight(graph: Graph) -> dict[str, onnx.TypeProto]:
    """Names and types that ONNX infers of the whole model, but those of constants."""
    inferred = onnx.shape_inference.infer_shapes(graph.to_model()).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: value.type for value in values if value.name not in graph.constants}


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_types_are_inferred_without_weights_as_with_them(path) -> None:
    graph = Graph.load(path)
    bare = graph.weightless()
    assert bare.ByteSize() < graph.to_model().ByteSize() / 3
    assert {value.name: value.type for value in graph.inferred()} == with_every_weight(graph)
    assert all(graph.shapes()[name] == array.shape for name, array in graph.constants.items())


def test_a_shape_that_follows_from_a_constant_is_known() -> None:
    """Values of small constants count; a large one has its shape only, also where it is an output itself."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["y"]),
    ]
    constants = {
        "shape": np.array([-1, 64]),
        "weight": np.zeros((64, MOST_OF_SHAPES // 64 + 1), np.float32),
        "unused": np.zeros(2 * MOST_OF_SHAPES, np.float32),
    }
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("weight", TensorProto.FLOAT, constants["weight"].shape),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    graph = Graph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert graph.shapes()["flat"] == (2, 64)
    assert graph.shapes()["y"] == (2, 17)
    assert {t.name for t in graph.weightless().graph.initializer} == {"shape"}
    assert [i.name for i in graph.weightless().graph.input] == ["x", "weight"]
    assert {value.name: value.type for value in graph.inferred()} == with_every_weight(graph)
