"""What the Gemmini imagenet runner makes of an int8 graph under `-x` and `-O`: where each node runs, and how.

The rules are those of the runner's ONNX Runtime (onnxruntime-riscv): the Systolic provider's kernels and its
fusions (GetCapability), TryConvOnSystolic, and the NHWC transformer. docs/gemmini-execution.md has them as a
table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import onnx

from topfive.errors import CompileError, UnknownNameError
from topfive.graph import Graph, attributes, node_label, window_pads
from topfive.targets.gemmini.execution_plan import (
    CPU,
    EXECUTIONS,
    NHWC_LEVEL,
    OPTIMIZATIONS,
    SYSTOLIC,
    TO_NCHW,
    TO_NHWC,
    Plan,
    PlannedNode,
    Refusal,
    SubAction,
)
from topfive.targets.gemmini.execution_windows import (
    Window,
    direct_work,
    grouped_products,
    pool_window,
)
from topfive.targets.gemmini.layers import (
    Matmul,
    ResidualAdd,
    Work,
    acts_as_relu,
    int8_shapes,
)

__all__ = ["Plan", "PlannedNode", "Refusal", "SubAction", "plan"]

FLOAT = "float32: the int8 build has no kernel for it"
NO_KERNEL = "no kernel on Systolic"
OUTPUT_STATIONARY = "has no output-stationary form: choose -x 0 or -x 2"


def plan(int8_model: onnx.ModelProto, execution: str, optimization: str, batch: int = 1) -> Plan:
    """The execution plan of an int8 graph (zero points 0) for a batch of `batch` pictures.

    execution: the runner's -x, "0", "1" or "2". optimization: its -O, "0", "1", "2" or "99". Nodes that it
    cannot run are in `refusals`. Raises CompileError when a shape that is needed cannot be inferred,
    UnknownNameError for another mode.
    """
    if execution not in EXECUTIONS:
        raise UnknownNameError("execution mode", execution, EXECUTIONS)
    if optimization not in OPTIMIZATIONS:
        raise UnknownNameError("optimization level", optimization, OPTIMIZATIONS)
    if batch < 1:
        raise CompileError(f"a batch of {batch} pictures: at least 1 is needed")
    graph = Graph(int8_model)
    return _Planner(graph, int8_shapes(graph), execution, optimization, batch).plan()


class _Planner:
    """One pass over the nodes. `nhwc` says, by tensor, what left it in NHWC: "conv", "pool" or "add"."""

    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, tuple[int | str, ...]],
        execution: str,
        optimization: str,
        batch: int,
    ) -> None:
        self.graph = graph
        self.shapes = shapes
        self.execution = execution
        self.optimization = optimization
        self.batch = batch
        self.consumers = graph.consumers()
        self.producers = graph.producers()
        self.found: list[PlannedNode] = []
        self.refused: list[Refusal] = []
        self.fused: dict[str, str] = {}
        self.nhwc: dict[str, str] = {}
        self.reordered: set[tuple[str, str]] = set()
        self.int8 = _int8_tensors(graph)
        self.zero_padded: set[str] = set()
        self.padded_on_cpu: list[str] = []
        self.rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "QLinearConv": self._conv,
            "QLinearMatMul": self._matmul,
            "QLinearAdd": self._add,
            "MaxPool": self._max_pool,
        }

    def plan(self) -> Plan:
        for node in self.graph.nodes:
            into = self.fused.get(node.output[0])
            if into is None:
                self.rules.get(node.op_type, self._on_cpu)(node)
            else:
                name = node.output[0]
                self._append(node, SYSTOLIC, "fused", name, fused_into=into, layout=self._layout(name))
        for name in self.graph.output_names:
            self._as_nchw(name)
        return Plan(
            self.execution,
            self.optimization,
            self.batch,
            tuple(self.found),
            tuple(self.refused),
            frozenset(self.zero_padded),
            tuple(self.padded_on_cpu),
        )

    # The graph

    def _shape(self, name: str, node: onnx.NodeProto) -> tuple[int, ...]:
        shape = self.shapes.get(name, ("?",))
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise CompileError(
                f"{node_label(node)}: the shape of {name!r} is {list(shape)}: fixed sizes are needed; "
                "give the model's input a size"
            )
        return tuple(int(size) for size in shape)

    def _readers(self, name: str) -> int:
        """How many times a tensor is read, the graph's output counted."""
        return len(self.consumers.get(name, ())) + self.graph.output_names.count(name)

    def _layout(self, name: str) -> str:
        return "NHWC" if name in self.nhwc else "NCHW"

    def _append(self, node: onnx.NodeProto, provider: str, how: str, output: str, **fields: Any) -> None:
        inputs = tuple(n for n in node.input if n and n not in self.graph.constants)
        name = node.name or node.output[0]
        self.found.append(PlannedNode(name, node.op_type, provider, how, inputs, output, **fields))

    def _refuse(self, node: onnx.NodeProto, reason: str) -> None:
        self.refused.append(Refusal(node_label(node), reason))

    # Layouts

    def _reorder(self, name: str, kind: str) -> None:
        if (name, kind) not in self.reordered:
            self.reordered.add((name, kind))
            layout = "NHWC" if kind == TO_NHWC else "NCHW"
            self.found.append(PlannedNode(f"{kind} {name}", "Transpose", CPU, kind, (name,), name, layout))

    def _as_nchw(self, *names: str) -> None:
        """Make sure that tensors exist in NCHW: one transpose serves all readers."""
        for name in names:
            if name in self.nhwc:
                self._reorder(name, TO_NCHW)

    def _as_nhwc(self, name: str) -> None:
        if name not in self.nhwc:
            self._reorder(name, TO_NHWC)

    # Fusions

    def _activation(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The ReLU that the node does itself: the only reader of its output."""
        reader = self.graph.sole_consumer(node.output[0], self.consumers)
        if reader is None or not acts_as_relu(reader, self.graph):
            return None
        self.fused[reader.output[0]] = node.name or node.output[0]
        return reader

    def _unfusable(self, node: onnx.NodeProto) -> str:
        """Why the NHWC transform does not fuse a max pool, looking at its attributes alone."""
        found = attributes(node)
        checks = {
            "it also gives indices": len(node.output) == 1,
            f"its kernel has {len(found['kernel_shape'])} dimensions": len(found["kernel_shape"]) == 2,
            f"auto_pad {found.get('auto_pad')}": found.get("auto_pad", "NOTSET") == "NOTSET",
            "ceil_mode": not found.get("ceil_mode", 0),
            f"dilations {found.get('dilations')}": {*found.get("dilations", [1])} == {1},
            "storage_order": not found.get("storage_order", 0),
        }
        return next((reason for reason, good in checks.items() if not good), "")

    def _attached(self, name: str) -> onnx.NodeProto | None:
        """The max pool that the transform fuses into the NHWC convolution that leaves tensor `name`.

        As written, its guard lets every pool after a convolution through, also where the convolution's own
        output has other readers, which would then get the pooled map.
        """
        for reader in self.consumers.get(name, ()):
            if reader.op_type == "MaxPool" and not self._unfusable(reader):
                if self._readers(name) != 1:
                    self._refuse(
                        reader,
                        f"the NHWC transform fuses it into the convolution, and {name!r} has other readers "
                        "too, which would get the pooled map: choose -O 0, 1 or 2",
                    )
                return reader
        return None

    # Operators

    def _conv(self, node: onnx.NodeProto) -> None:
        window = self._window(node)
        if any(self.graph.constants[node.input[at]].size > 1 for at in (1, 4, 6)):
            self._refuse(node, "it has a scale per channel, and the runner takes one a tensor: choose int8")
        relu = self._activation(node)
        output = relu.output[0] if relu is not None else node.output[0]
        constant_weights = node.input[3] in self.graph.constants
        if self.optimization == NHWC_LEVEL and constant_weights and len(window.kernel) == 2:
            self._nhwc_conv(node, window, relu, output)
            return
        self._as_nchw(node.input[0])
        pixels, groups = prod(window.out_size), window.groups
        channels, times = window.out_channels // groups, window.batch * groups
        steps = [SubAction("im2col", times)] if window.unrolled else []
        steps += [SubAction("bias splat", times)] if window.bias else []
        steps.append(SubAction("matmul", times, (channels, pixels, window.depth)))
        self._append(
            node,
            SYSTOLIC,
            "im2col + matmul" if window.unrolled else "matmul",
            output,
            relu=relu.name or output if relu is not None else "",
            steps=tuple(steps),
            work=Matmul(channels, pixels, window.depth, times, window.bias),
        )

    def _window(self, node: onnx.NodeProto) -> Window:
        x, w = self._shape(node.input[0], node), self._shape(node.input[3], node)
        y, found = self._shape(node.output[0], node), attributes(node)
        kernel = w[2:]
        return Window(
            self.batch * x[0],
            x[1],
            x[2:],
            w[0],
            y[2:],
            kernel,
            tuple(found.get("strides", [1] * len(kernel))),
            tuple(found.get("dilations", [1] * len(kernel))),
            window_pads(found, x[2:], kernel),
            int(found.get("group", 1)),
            prod(w[1:]),
            len(node.input) > 8 and bool(node.input[8]),
        )

    def _nhwc_conv(
        self, node: onnx.NodeProto, window: Window, relu: onnx.NodeProto | None, output: str
    ) -> None:
        self._as_nhwc(node.input[0])
        pool_node = self._attached(output)
        pool = pool_window(pool_node) if pool_node is not None else None
        reason = window.not_direct() or (pool.not_direct() if pool is not None else "")
        fields: dict[str, Any] = {"relu": relu.name or output if relu is not None else ""}
        self.nhwc[output] = "conv"
        if pool_node is not None and pool is not None:
            name = pool_node.output[0]
            fields |= {"pool": pool_node.name or name, "pool_on": CPU if reason else SYSTOLIC}
            self.fused[name] = node.name or node.output[0]
            self.nhwc[name] = "pool"
            output = name
            self._note_padding(pool_node, on_systolic=not reason)
            if not reason and pool.misread(window.out_size):
                self._refuse(
                    pool_node,
                    f"Systolic reads the first of its pads {list(pool.pads)} as all four and would give "
                    "another size: choose -O 0, 1 or 2",
                )
        if reason:
            steps, work = grouped_products(window)
            how = "im2col + matmul" if window.unrolled else "matmul"
            fields |= {"reason": reason, "steps": steps, "work": work}
        else:
            how = {"0": "conv_cpu", "2": "LoopConv WS"}.get(self.execution, "conv OS")
            fields["work"] = direct_work(window, pool)
            if self.execution == "1":
                self._refuse(node, f"an NHWC convolution {OUTPUT_STATIONARY}, or -O 0, 1 or 2")
        self._append(node, SYSTOLIC, how, output, layout="NHWC", **fields)

    def _note_padding(self, node: onnx.NodeProto, *, on_systolic: bool) -> None:
        if on_systolic:
            self.zero_padded.add(node.output[0])
        elif node.input[0] in self.int8:
            found = attributes(node)
            if any(found.get("pads", ())) or found.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
                self.padded_on_cpu.append(node.output[0])

    def _matmul(self, node: onnx.NodeProto) -> None:
        self._as_nchw(node.input[0], node.input[3])
        a, b = self._shape(node.input[0], node), self._shape(node.input[3], node)
        work: Work | None = None
        if min(len(a), len(b)) > 1:
            if len(b) == 2:
                work = Matmul(self.batch * prod(a[:-1]), b[1], b[0])
            else:
                y = self._shape(node.output[0], node)
                work = Matmul(y[-2], y[-1], a[-1], self.batch * prod(y[:-2]))
        self._append(node, SYSTOLIC, "matmul", node.output[0], work=work)

    def _add(self, node: onnx.NodeProto) -> None:
        left, right = node.input[0], node.input[3]
        a, b = self._shape(left, node), self._shape(right, node)
        relu = self._activation(node)
        output = relu.output[0] if relu is not None else node.output[0]
        if a != b:
            self._refuse(node, f"it adds shapes {list(a)} and {list(b)}: residual additions do not broadcast")
        if self.execution == "1":
            self._refuse(node, f"a residual addition {OUTPUT_STATIONARY}")
        if a == b and left in self.nhwc and right in self.nhwc:
            self.nhwc[output] = "add"
        else:
            self._as_nchw(left, right)
        channels = a[1] if len(a) == 4 else a[-1]
        self._append(
            node,
            SYSTOLIC,
            "residual add",
            output,
            layout=self._layout(output),
            relu=relu.name or output if relu is not None else "",
            work=ResidualAdd(self.batch * prod(a) // channels, channels),
        )

    def _max_pool(self, node: onnx.NodeProto) -> None:
        name = node.input[0]
        self._note_padding(node, on_systolic=False)
        left_by, unfusable = self.nhwc.get(name), self._unfusable(node)
        if name not in self.int8:
            reason = FLOAT
        elif self.optimization != NHWC_LEVEL:
            reason = "max pools are fused at -O 99 only"
        elif left_by is None:
            reason = "its input is not in NHWC"
        else:
            reason = unfusable or "its input is not a convolution's alone"
        if left_by == "pool" and not unfusable:
            self._refuse(
                node,
                "the NHWC transform fuses it too into the convolution, over the max pool there: "
                "choose -O 0, 1 or 2",
            )
        if left_by == "add" and not unfusable and self._readers(name) == 1:
            self._refuse(
                node,
                "the NHWC transform attaches it to the residual addition before it, whose kernel does no "
                "pooling, so that it would be lost: choose -O 0, 1 or 2",
            )
        self._as_nchw(name)
        self._append(node, CPU, "", node.output[0], reason=reason)

    def _on_cpu(self, node: onnx.NodeProto) -> None:
        self._as_nchw(*node.input)
        self._append(node, CPU, "", node.output[0], reason=self._why_on_cpu(node))

    def _why_on_cpu(self, node: onnx.NodeProto) -> str:
        op = node.op_type
        if op in ("QuantizeLinear", "DequantizeLinear") or (op.startswith("QLinear") and op != "QLinearRelu"):
            return NO_KERNEL
        if node.input[0] not in self.int8:
            return FLOAT
        if acts_as_relu(node, self.graph):
            before = self.producers.get(node.input[0])
            label = node_label(before) if before is not None else "the graph's input"
            if before is not None and before.op_type in ("QLinearConv", "QLinearAdd"):
                return f"not fused: {label} has other readers; the runner has no kernel for it alone"
            return f"not fused: {label} takes no ReLU; the runner has no kernel for it alone"
        return NO_KERNEL


def _int8_tensors(graph: Graph) -> set[str]:
    found = {i.name for i in graph.inputs if i.type.tensor_type.elem_type == onnx.TensorProto.INT8}
    for node in graph.nodes:
        op = node.op_type
        passes = op not in ("DequantizeLinear", "Shape") and any(name in found for name in node.input)
        if op == "QuantizeLinear" or op.startswith("QLinear") or passes:
            found.update(node.output)
    return found
