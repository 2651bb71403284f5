"""Which work an int8 graph gives to Gemmini: convolutions, matrix products and residual additions as sizes.

What the accelerator's library cannot take is listed too, with the reason; it runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import onnx

from topfive.errors import CompileError
from topfive.graph import MICROSOFT, Graph, attributes, node_label, window_pads
from topfive.targets.gemmini.tiling import NO_POOL, Pool, output_size

__all__ = [
    "Conv",
    "Layer",
    "Matmul",
    "ResidualAdd",
    "Work",
    "acts_as_relu",
    "inferrable",
    "int8_shapes",
    "model_layers",
]

INT8_MOST = 127
# Fields of the pooling store configuration: two bits for size, stride and padding, eight for lengths.
MOST_POOL, MOST_POOLED_SIDE = 3, 255
# Shape inference knows no operators of this domain: standard ones of the same shape, and their inputs.
SHAPED_LIKE = {
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearRelu": ("Identity", (0,)),
}


@dataclass(frozen=True)
class Conv:
    """A convolution of NHWC int8: sizes in elements; `in_dim` is (height, width).

    `depthwise`: one filter a channel, in_channels = out_channels. `groups` convolutions of these channel
    sizes are run one after another. `pool`: the max pool done while storing. `scales`: store scales, one for
    all output channels or one each.
    """

    batch: int
    in_dim: tuple[int, int]
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    pool: Pool = NO_POOL
    groups: int = 1
    bias: bool = True
    depthwise: bool = False
    scales: int = 1

    @property
    def out_dim(self) -> tuple[int, int]:
        """Output height and width before pooling."""
        reach = (self.kernel - 1) * self.dilation + 1
        return (
            output_size(self.in_dim[0], reach, self.stride, self.padding),
            output_size(self.in_dim[1], reach, self.stride, self.padding),
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the mathematics needs."""
        inputs = 1 if self.depthwise else self.in_channels
        pixels = self.batch * prod(self.out_dim)
        return self.groups * pixels * self.out_channels * inputs * self.kernel**2


@dataclass(frozen=True)
class Matmul:
    """`count` products A[i, k] x B[k, j] of int8, with or without a bias row of j; `scales` as of Conv."""

    i: int
    j: int
    k: int
    count: int = 1
    bias: bool = False
    scales: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the mathematics needs."""
        return self.count * self.i * self.j * self.k


@dataclass(frozen=True)
class ResidualAdd:
    """The sum of two int8 matrices [i, j]; it has no multiply-accumulates."""

    i: int
    j: int

    @property
    def macs(self) -> int:
        """Always 0."""
        return 0


Work = Conv | Matmul | ResidualAdd


@dataclass(frozen=True)
class Layer:
    """One node of the graph: what Gemmini does for it, or None and why it does nothing."""

    name: str
    op_type: str
    work: Work | None
    note: str = ""
    fused_into: str = ""

    @property
    def on(self) -> str:
        """Where it runs: "gemmini", "fused" (into an earlier layer, on Gemmini) or "cpu"."""
        if self.fused_into:
            return "fused"
        return "cpu" if self.work is None else "gemmini"


def model_layers(int8_model: onnx.ModelProto, batch: int = 1) -> list[Layer]:
    """The layers of an int8 graph in running order, for a batch of `batch` pictures.

    Nodes that are fused into the one before (ReLU, a max pool after a convolution) are listed with no work of
    their own. Raises CompileError when a shape that is needed cannot be inferred.
    """
    if batch < 1:
        raise CompileError(f"a batch of {batch} pictures: at least 1 is needed")
    graph = Graph(int8_model)
    return _Reader(graph, int8_shapes(graph), batch).layers()


def int8_shapes(graph: Graph) -> Mapping[str, tuple[int | str, ...]]:
    """Shapes for a batch of one, inferred on a copy whose int8 additions are standard operators."""
    return inferrable(graph).shapes()


def inferrable(graph: Graph, batch: int = 1) -> Graph:
    """A copy for shape inference only: int8 additions are standard operators, and a free batch is `batch`."""
    copy = Graph(graph.weightless())
    for value in copy.inputs:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = batch
    for node in copy.nodes:
        standard, inputs = SHAPED_LIKE.get(node.op_type, ("", ()))
        if standard:
            kept = [node.input[at] for at in inputs]
            node.ClearField("input")
            node.ClearField("attribute")
            node.input.extend(kept)
            node.op_type, node.domain = standard, ""
    copy.opsets.setdefault(MICROSOFT, 1)
    return copy


def acts_as_relu(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a node on int8 is a ReLU, or a Clip from 0 whose upper bound the int8 range enforces."""
    if node.op_type != "Clip":
        return node.op_type in ("Relu", "QLinearRelu")
    names = [*node.input[1:], "", ""]
    low, high = (graph.constants.get(name) for name in names[:2])
    return (
        low is not None and int(low) == 0 and (not names[1] or (high is not None and int(high) >= INT8_MOST))
    )


class _Reader:
    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int | str, ...]], batch: int) -> None:
        self.graph = graph
        self.known = shapes
        self.batch = batch
        self.consumers = graph.consumers()
        self.fused: dict[str, str] = {}
        self.rules = {
            "QLinearConv": self._conv,
            "QLinearMatMul": self._matmul,
            "QLinearAdd": self._add,
        }

    def layers(self) -> list[Layer]:
        found = []
        for node in self.graph.nodes:
            label = node.name or node.output[0]
            rule = self.rules.get(node.op_type)
            if node.output[0] in self.fused:
                into = self.fused[node.output[0]]
                layer = Layer(label, node.op_type, None, f"fused into {into}", into)
            elif rule is None:
                layer = Layer(label, node.op_type, None, "runs on the CPU")
            else:
                work, note = rule(node)
                layer = Layer(label, node.op_type, work, note)
                if work is not None:
                    self._fuse(node)
            found.append(layer)
        return found

    def _shape(self, name: str, node: onnx.NodeProto) -> tuple[int, ...]:
        shape = self.known.get(name, ("?",))
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise CompileError(
                f"{node_label(node)}: the shape of {name!r} is {list(shape)}: fixed sizes are needed; "
                "give the model's input a size"
            )
        return tuple(int(size) for size in shape)

    def _next(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        return self.graph.sole_consumer(node.output[0], self.consumers)

    def _activation(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The ReLU that the store does: a Relu, or a Clip whose upper bound the int8 range enforces."""
        reader = self._next(node)
        return reader if reader is not None and acts_as_relu(reader, self.graph) else None

    def _fuse(self, node: onnx.NodeProto) -> None:
        activation = self._activation(node)
        if activation is not None:
            self.fused[activation.output[0]] = node.name or node.output[0]

    def _pool(self, node: onnx.NodeProto, size: tuple[int, int]) -> Pool:
        """The max pool that the store does after the convolution `node` of output `size`; noted as fused."""
        if size[0] != size[1] or size[0] > MOST_POOLED_SIDE:
            return NO_POOL
        last = self._activation(node) or node
        reader = self._next(last)
        if reader is None or reader.op_type != "MaxPool" or len(reader.output) > 1:
            return NO_POOL
        found = attributes(reader)
        kernel, strides = found["kernel_shape"], found.get("strides", [1, 1])
        pads, dilations = found.get("pads", [0] * 4), found.get("dilations", [1, 1])
        plain = found.get("auto_pad", "NOTSET") == "NOTSET" and not found.get("ceil_mode", 0)
        if not plain or found.get("storage_order", 0) or {*dilations} != {1}:
            return NO_POOL
        if len(kernel) != 2 or {len({*kernel}), len({*strides}), len({*pads})} != {1}:
            return NO_POOL
        pool = (int(kernel[0]), int(strides[0]), int(pads[0]))
        if max(pool) > MOST_POOL:
            return NO_POOL
        self.fused[reader.output[0]] = node.name or node.output[0]
        return pool

    def _conv(self, node: onnx.NodeProto) -> tuple[Work | None, str]:
        x, w = self._shape(node.input[0], node), self._shape(node.input[3], node)
        if len(x) != 4:
            return None, f"a convolution over {len(x) - 2} dimensions runs on the CPU"
        found = attributes(node)
        groups, bias = int(found.get("group", 1)), len(node.input) > 8 and bool(node.input[8])
        window = _square_window(found, x[2:], w[2:])
        scale = self.graph.constants.get(node.input[4])
        scales = 1 if scale is None else scale.size
        if window is None:
            work, note = self._unrolled(node, w, groups, bias)
            return replace(work, scales=scales), note
        kernel, stride, padding, dilation = window
        size = (x[2], x[3])
        conv = Conv(self.batch * x[0], size, x[1], w[0], kernel, stride, padding, dilation, bias=bias)
        conv = replace(conv, scales=scales)
        if groups == 1:
            return replace(conv, pool=self._pool(node, conv.out_dim)), ""
        if groups == x[1] == w[0] and dilation == 1:
            return replace(conv, depthwise=True), "channel by channel; not calibrated"
        per_group = replace(conv, in_channels=w[1], out_channels=w[0] // groups, groups=groups)
        return per_group, f"{groups} groups one after another"

    def _unrolled(
        self, node: onnx.NodeProto, w: tuple[int, ...], groups: int, bias: bool
    ) -> tuple[Matmul, str]:
        y = self._shape(node.output[0], node)
        work = Matmul(self.batch * y[0] * prod(y[2:]), w[0] // groups, prod(w[1:]), groups, bias)
        return work, "as a matrix product: im2col, on the CPU, is not counted"

    def _matmul(self, node: onnx.NodeProto) -> tuple[Work | None, str]:
        a, b = self._shape(node.input[0], node), self._shape(node.input[3], node)
        if min(len(a), len(b)) < 2:
            return None, "a product with a vector runs on the CPU"
        if len(b) == 2:
            return Matmul(self.batch * prod(a[:-1]), b[1], b[0]), ""
        y = self._shape(node.output[0], node)
        return Matmul(y[-2], y[-1], a[-1], self.batch * prod(y[:-2])), ""

    def _add(self, node: onnx.NodeProto) -> tuple[Work | None, str]:
        a, b = self._shape(node.input[0], node), self._shape(node.input[3], node)
        if a != b:
            return None, "an addition of unequal shapes runs on the CPU"
        channels = a[1] if len(a) == 4 else a[-1]
        return ResidualAdd(self.batch * prod(a) // channels, channels), ""


def _square_window(
    found: Mapping[str, Any], size: Sequence[int], kernel: Sequence[int]
) -> tuple[int, int, int, int] | None:
    """(kernel, stride, padding, dilation) if each is one number, as the library's convolutions need."""
    strides, dilations = found.get("strides", [1, 1]), found.get("dilations", [1, 1])
    pads = window_pads(found, size, kernel)
    if {len({*kernel}), len({*strides}), len({*dilations}), len({*pads})} != {1} or pads[0] >= kernel[0]:
        return None
    return kernel[0], strides[0], pads[0], dilations[0]
