"""Which channels of a float graph can be scaled without changing what it computes, and doing so.

Scaling output channel c of a convolution by a positive f[c] and dividing the weights of whatever convolution
reads that channel by f[c] changes nothing, as long as what lies between keeps its form under scaling: ReLU,
LeakyReLU, pools, concatenation, and a residual addition if both addends are scaled alike. A Clip from 0 to an
upper bound keeps it for channels that stay below the bound, scaled or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import QuantizeError
from topfive.graph import Graph, attributes, node_label

__all__ = ["Channels", "Conv", "Floats", "clip_bounds", "convolutions", "rescale", "scalable_channels"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
# One input, one output, and f(s * x) = s * f(x) for every positive s, channel by channel.
HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout"}


@dataclass(frozen=True)
class Conv:
    """A convolution with constant weights: groups of 1 or depthwise."""

    node: onnx.NodeProto
    depthwise: bool

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)


def convolutions(graph: Graph) -> list[Conv]:
    """The two-dimensional convolutions that passes can work on, in graph order."""
    found = []
    for node in graph.nodes:
        weights = graph.constants.get(node.input[1]) if node.op_type == "Conv" else None
        if weights is None or weights.ndim != 4:
            continue
        group = attributes(node).get("group", 1)
        depthwise = weights.shape[1] == 1 and 1 < group == weights.shape[0]
        constant_bias = len(node.input) < 3 or not node.input[2] or node.input[2] in graph.constants
        if (group == 1 or depthwise) and constant_bias:
            found.append(Conv(node, depthwise))
    return found


def clip_bounds(node: onnx.NodeProto, graph: Graph) -> tuple[float, float] | None:
    """(lower, upper) of a Relu or a Clip with constant bounds; None for anything else."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    bounds = [-np.inf, np.inf]
    for side, name in enumerate(node.input[1:3]):
        if name and name not in graph.constants:
            return None
        if name:
            bounds[side] = float(graph.constants[name].item())
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class Channels:
    """The free scales of a graph.

    of: tensor to the scale (a number) of each of its channels. count: scales in all. fixed: those that must
    stay 1. bounded: (tensor before a Clip, upper bound): its channels' scales depend on where they clip.
    """

    of: Mapping[str, Indices]
    count: int
    fixed: frozenset[int]
    bounded: tuple[tuple[str, float], ...]


class _Union:
    """Disjoint sets of scales that must be equal."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def new(self, count: int) -> Indices:
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, item: int) -> int:
        while self.parents[item] != item:
            self.parents[item] = self.parents[self.parents[item]]
            item = self.parents[item]
        return item

    def join(self, left: Indices, right: Indices) -> None:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            self.parents[self.root(a)] = self.root(b)


def scalable_channels(graph: Graph) -> Channels:
    """The scales of a float graph whose nodes have names."""
    return _Walk(graph).run()


class _Walk:
    """One pass over the nodes, giving every convolution's output channels scales of their own."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.convs = {conv.name: conv for conv in convolutions(graph)}
        self.union = _Union()
        self.tensors: dict[str, Indices] = {}
        self.fixed: list[Indices] = []
        self.bounded: list[tuple[str, float]] = []

    def run(self) -> Channels:
        for node in self.graph.nodes:
            if node.name in self.convs:
                weights = self.graph.constants[node.input[1]]
                self.tensors[node.output[0]] = self.union.new(len(weights))
            elif not self._keeps_form(node):
                self.fixed += [self.tensors[name] for name in node.input if name in self.tensors]
        self.fixed += [self.tensors[name] for name in self.graph.output_names if name in self.tensors]
        roots = [self.union.root(item) for item in range(len(self.union.parents))]
        numbers, numbered = np.unique(np.array(roots, np.int64), return_inverse=True)
        fixed = {int(n) for indices in self.fixed for n in numbered[indices]}
        of = {name: numbered[indices] for name, indices in self.tensors.items()}
        return Channels(of, len(numbers), frozenset(fixed), tuple(self.bounded))

    def _keeps_form(self, node: onnx.NodeProto) -> bool:
        """Whether scaled inputs give a scaled output; notes the output's scales if so."""
        named = [name for name in node.input if name]
        known = [self.tensors[name] for name in named if name in self.tensors]
        made = None
        if node.op_type == "Add":
            if len(known) == 2 and len(known[0]) == len(known[1]):
                self.union.join(*known)
                made = known[0]
        elif node.op_type == "Concat":
            if len(known) == len(named) and attributes(node).get("axis") == 1:
                made = np.concatenate(known)
        elif named and named[0] in self.tensors and self._is_homogeneous(node):
            made = known[0]
        if made is None:
            return False
        self.tensors[node.output[0]] = made
        return True

    def _is_homogeneous(self, node: onnx.NodeProto) -> bool:
        bounds = clip_bounds(node, self.graph) if node.op_type == "Clip" else None
        if bounds is not None and bounds[0] == 0 and np.isfinite(bounds[1]):
            self.bounded.append((node.input[0], bounds[1]))
        return node.op_type in HOMOGENEOUS or (bounds is not None and bounds[0] == 0)


def rescale(graph: Graph, factors: Mapping[str, Floats]) -> None:
    """Scale output channels of convolutions and whatever reads them, in place.

    factors: convolution's name to the factor of each output channel, at least 0. A factor of 0 takes the
    channel out: its weights and bias become 0, and so do the weights that read it. Products are computed in
    float64 and rounded once to float32. Raises QuantizeError when a factor is not finite, when a name or a
    length does not fit, or when a scaled channel reaches something that does not keep its form.
    """
    _Rescaling(graph, factors).run()


class _Rescaling:
    """One pass over the nodes, carrying each tensor's factors along."""

    def __init__(self, graph: Graph, factors: Mapping[str, Floats]) -> None:
        self.graph = graph
        self.factors = factors
        self.convs = {conv.name: conv for conv in convolutions(graph)}
        self.tensors: dict[str, Floats] = {}
        unknown = sorted(factors.keys() - self.convs.keys())
        if unknown:
            raise QuantizeError(f"no convolution {unknown[0]!r} in this model: calibrate again")
        for name, factor in factors.items():
            outputs = len(graph.constants[self.convs[name].node.input[1]])
            if factor.shape != (outputs,) or not np.isfinite(factor).all() or (factor < 0).any():
                raise QuantizeError(f"{name!r}: {outputs} channel factors of at least 0 are needed")

    def run(self) -> None:
        for node in self.graph.nodes:
            if node.name in self.convs:
                self._conv(self.convs[node.name])
            else:
                self._other(node)
        for name in self.graph.output_names:
            self._check_plain(name, "the model's output")

    def _check_plain(self, name: str, where: str) -> None:
        if name in self.tensors and (self.tensors[name] != 1).any():
            raise QuantizeError(f"{where} reads {name!r}, whose channels cannot be scaled: calibrate again")

    def _conv(self, conv: Conv) -> None:
        node, constants = conv.node, self.graph.constants
        weights = constants[node.input[1]].astype(np.float64)
        outputs = self.factors.get(conv.name, np.ones(len(weights)))
        inputs = self.tensors.get(node.input[0])
        if inputs is not None:
            divided = np.divide(1.0, inputs, out=np.zeros_like(inputs), where=inputs > 0)
            axes = (-1, 1, 1, 1) if conv.depthwise else (1, -1, 1, 1)
            weights = weights * divided.reshape(axes)
        weights = weights * outputs.reshape(-1, 1, 1, 1)
        self._replace(node, 1, weights)
        if len(node.input) > 2 and node.input[2]:
            self._replace(node, 2, constants[node.input[2]].astype(np.float64) * outputs)
        self.tensors[node.output[0]] = outputs

    def _replace(self, node: onnx.NodeProto, index: int, values: Floats) -> None:
        """Give the node a constant of its own: another node may share the old one."""
        name = f"{node.name}.{'weight' if index == 1 else 'bias'}_rescaled"
        node.input[index] = self.graph.constant(name, values.astype(np.float32))

    def _other(self, node: onnx.NodeProto) -> None:
        carried = [self.tensors[name] for name in node.input if name in self.tensors]
        if not carried:
            return
        joined = node.op_type == "Add" and len(carried) == 2 and np.array_equal(carried[0], carried[1])
        if node.op_type == "Concat" and len(carried) == len(node.input) and attributes(node)["axis"] == 1:
            self.tensors[node.output[0]] = np.concatenate(carried)
        elif joined or node.op_type in HOMOGENEOUS or _from_zero(node, self.graph):
            self.tensors[node.output[0]] = carried[0]
        else:
            for name in node.input:
                self._check_plain(name, node_label(node))


def _from_zero(node: onnx.NodeProto, graph: Graph) -> bool:
    bounds = clip_bounds(node, graph) if node.op_type == "Clip" else None
    return bounds is not None and bounds[0] == 0
