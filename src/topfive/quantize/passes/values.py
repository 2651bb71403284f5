"""A tensor of a graph at a time, over all calibration pictures, without running the graph from its start.

The float model and its quantised form are walked through side by side, layer by layer. `Values` keeps the
tensors that were asked for, until they are dropped, and computes the next one from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from topfive.graph import MICROSOFT, Graph
from topfive.quantize.passes.batches import batch_size
from topfive.sessions import open_session

__all__ = ["OpenInteger", "Session", "Values"]

Array = NDArray[Any]
ONNX_TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8}


class Session(Protocol):
    """What runs a graph: ONNX Runtime's session."""

    def run(self, outputs: list[str] | None, inputs: dict[str, Array]) -> list[Array]:
        """The outputs of that name for one batch."""


OpenInteger = Callable[[onnx.ModelProto], Session]
"""Opens an int8 graph, whose inputs and outputs may be int8 as well, in a target's exact arithmetic."""


class Values:
    """Tensors of a graph whose nodes may still grow, for one set of pictures.

    graph: its constants and its input. nodes: called whenever a tensor is asked for; the nodes so far, in
    running order. open_integer: for a graph whose int8 tensors are asked for; None: a float graph.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Callable[[], list[onnx.NodeProto]],
        pictures: NDArray[np.float32],
        open_integer: OpenInteger | None = None,
    ) -> None:
        self.graph = graph
        self.nodes = nodes
        self.open_integer = open_integer
        self.held: dict[str, Array] = {graph.input_names[0]: pictures}

    def get(self, name: str) -> Array:
        """A tensor [N, ...]; int8 tensors as int8. Kept until `drop`."""
        if name not in self.held:
            self.held[name] = self._computed(name)
        return self.held[name]

    def drop(self, unneeded: Iterable[str]) -> None:
        """Forget tensors that no later node reads; they can still be computed again, from the start."""
        for name in unneeded:
            if name != self.graph.input_names[0]:
                self.held.pop(name, None)

    def _computed(self, name: str) -> Array:
        needed, kept = {name}, []
        for node in reversed(self.nodes()):
            if any(output in needed for output in node.output):
                kept.append(node)
                needed.update(i for i in node.input if i and i not in self.held)
        used = {i for node in kept for i in node.input}
        inputs = [given for given in self.held if given in used]
        session = self._session(kept[::-1], inputs, name)
        parts = []
        size = batch_size(self.graph)
        for start in range(0, len(self.held[inputs[0]]), size):
            batch = {given: self.held[given][start : start + size] for given in inputs}
            parts.append(session.run([name], batch)[0])
        return np.concatenate(parts)

    def _session(self, nodes: list[onnx.NodeProto], inputs: list[str], output: str) -> Session:
        part = Graph(helper.make_model(helper.make_graph([], "part", [], [])))
        part.nodes, part.constants, part.opsets = (
            nodes,
            self.graph.constants,
            {**self.graph.opsets, MICROSOFT: 1},
        )
        for given in inputs:
            held = self.held[given]
            kind = ONNX_TYPES[held.dtype.name]
            part.inputs.append(helper.make_tensor_value_info(given, kind, [None, *held.shape[1:]]))
        if self.open_integer is None:
            part.outputs = [onnx.ValueInfoProto(name=output)]
            session: Session = open_session(part.to_model().SerializeToString(), optimise=False)
            return session
        part.outputs = [helper.make_tensor_value_info(output, TensorProto.INT8, None)]
        return self.open_integer(part.to_model())
