"""From a graph to the steps of a program: what operators share while they are turned into C."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from topfive.errors import CompileError
from topfive.graph import Graph, node_label
from topfive.targets.gemmini_qemu.data import DataSection
from topfive.targets.gemmini_qemu.tensors import Loop, Order, Tensor, plain, walk

__all__ = ["Emitter", "Rule", "Step"]

DTYPES = {TensorProto.FLOAT: "float32", TensorProto.INT8: "int8"}
CODES = (-128, 127)


@dataclass
class Step:
    """One operator in C, and the storages that it reads and writes; `shown` are the tensors that it makes.

    before: the same operator without what is fused into it, run first when every tensor is asked for, each
    with the tensor that it makes. inner: storages that only those need. accelerator: the accelerator's
    instructions that the step issues, by name; None for a step of the processor alone.
    """

    title: str
    code: list[str]
    reads: tuple[int, ...]
    writes: int
    declarations: list[str] = field(default_factory=list)
    shown: list[Tensor] = field(default_factory=list)
    before: list[tuple[list[str], Tensor]] = field(default_factory=list)
    products: int = 0
    inner: tuple[int, ...] = ()
    accelerator: Mapping[str, int] | None = None


Rule = Callable[["Emitter", onnx.NodeProto], None]


class Emitter:
    """The program while it grows: constants, tensors, steps. Batches are run picture by picture."""

    def __init__(self, graph: Graph, rules: Mapping[str, Rule]) -> None:
        self.graph = graph
        self.rules = rules
        self.data = DataSection()
        self.steps: list[Step] = []
        self.sizes: list[int] = []
        self.tensors: dict[str, Tensor] = {}
        self.scratch = 0
        self.zeros = 1
        self._reordered: dict[tuple[str, Order], Tensor] = {}
        self._absorbed: set[int] = set()
        self._consumers = graph.consumers()
        self._node: onnx.NodeProto | None = None

    def run(self) -> None:
        """Emit every node in order; CompileError names each node that has no C form, and why."""
        self._declare_input()
        refused: list[str] = []
        unknown: set[str] = set()
        for node in self.graph.nodes:
            if not unknown.isdisjoint(node.input):
                unknown.update(node.output)
            elif id(node) not in self._absorbed and not self._fold(node):
                reason = self._emit(node)
                if reason:
                    refused.append(reason)
                    unknown.update(node.output)
        if refused:
            more = f" (and {len(refused) - 1} more)" if refused[1:] else ""
            raise CompileError(refused[0] + more, details="\n".join(f"  {reason}" for reason in refused[1:]))

    def _emit(self, node: onnx.NodeProto) -> str:
        """Emit one node; why it has no C form, or ""."""
        rule = self.rules.get(node.op_type)
        if rule is None:
            return f"{node_label(node)} has no C form in the RISC-V program"
        self._node = node
        try:
            rule(self, node)
        except CompileError as error:
            reason = "\n  ".join(text for text in (error.message, error.details) if text)
            return f"{node_label(node)}: {reason}"
        return ""

    def _declare_input(self) -> None:
        (value,) = self.graph.inputs
        dtype = DTYPES.get(value.type.tensor_type.elem_type)
        if dtype is None:
            raise CompileError(f"input {value.name!r} is neither float32 nor int8")
        dims = value.type.tensor_type.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else 1 for d in dims)
        self.tensors[value.name] = self._stored(value.name, dtype, shape, plain(len(shape)))

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute a node whose inputs are all known: constants, and the shapes of tensors."""
        from topfive.targets.gemmini.reference import run_node

        if node.op_type == "Shape" and node.input[0] in self.tensors:
            shape = np.array(self.tensors[node.input[0]].shape, np.int64)
            bounds = {a.name: a.i for a in node.attribute}
            self.graph.constants[node.output[0]] = shape[bounds.get("start", 0) : bounds.get("end")]
            return True
        if not all(not name or name in self.graph.constants for name in node.input):
            return False
        values = [self.graph.constants.get(name, np.empty(0, np.int8)) for name in node.input]
        results = run_node(node, values, self.graph.opset)
        self.graph.constants.update(zip([o for o in node.output if o], results, strict=True))
        return True

    # Tensors

    def value(self, node: onnx.NodeProto, index: int) -> NDArray[Any] | None:
        """A constant input, or None where the node has no such input; CompileError if it is not constant."""
        name = node.input[index] if len(node.input) > index else ""
        if not name:
            return None
        if name not in self.graph.constants:
            raise CompileError(f"input {index} ({name!r}) has to be constant")
        return self.graph.constants[name]

    def number(self, node: onnx.NodeProto, index: int, default: float = 0.0) -> float:
        """A constant scalar input as a number."""
        value = self.value(node, index)
        if value is None or value.size == 0:
            return default
        if value.size != 1:
            raise CompileError(f"input {index} ({node.input[index]!r}) has {value.size} values, not one")
        return float(value.ravel()[0])

    def tensor(self, name: str, dtype: str = "") -> Tensor:
        """The tensor of this name, a constant included; CompileError if it is not of type `dtype`."""
        if name not in self.tensors:
            if name not in self.graph.constants:
                raise CompileError(f"tensor {name!r} does not exist")
            array = self.graph.constants[name]
            order = plain(array.ndim)
            self.tensors[name] = Tensor(name, str(array.dtype), array.shape, order, self.data.add(array), -1)
        found = self.tensors[name]
        if dtype and found.dtype != dtype:
            raise CompileError(f"tensor {name!r} is {found.dtype}, not {dtype}")
        return found

    def _stored(self, name: str, dtype: str, shape: Sequence[int], order: Order) -> Tensor:
        if any(n <= 0 for n in shape):
            raise CompileError(f"tensor {name!r} has the shape {list(shape)}")
        number = len(self.sizes)
        made = Tensor(name, dtype, tuple(int(n) for n in shape), order, f"B{number}", number)
        self.sizes.append(made.size)
        return made

    def temporary(self, name: str, dtype: str, shape: Sequence[int], order: Order) -> Tensor:
        """A tensor that only the step which makes it uses: its storage belongs into `Step.inner`."""
        return self._stored(name, dtype, shape, order)

    def make(self, name: str, dtype: str, shape: Sequence[int], order: Order | None = None) -> Tensor:
        """A new tensor with memory of its own."""
        made = self._stored(name, dtype, shape, plain(len(shape)) if order is None else order)
        self.tensors[name] = made
        return made

    def alias(self, name: str, like: Tensor, shape: Sequence[int], order: Order) -> Tensor:
        """A new name and shape for the memory of a tensor."""
        made = replace(like, name=name, shape=tuple(int(n) for n in shape), order=order)
        if made.count != like.count:
            raise CompileError(f"{list(like.shape)} cannot become {list(shape)}")
        self.tensors[name] = made
        if like.storage >= 0:
            self.step([], [made], made)
        return made

    def in_order(self, x: Tensor, order: Order) -> Tensor:
        """The tensor with its axes in this order, copied if it does not lie so already."""
        if x.lies_as(order):
            return replace(x, order=order)
        if (x.name, order) not in self._reordered:
            made = self._stored(f"{x.name} reordered", x.dtype, x.shape, order)
            self.copy(f"reorder {x.name}", x, made)
            self._reordered[x.name, order] = made
        return self._reordered[x.name, order]

    # Steps

    def step(
        self, code: list[str], reads: Sequence[Tensor], made: Tensor, *, shown: bool = True, **more: Any
    ) -> None:
        """Add a step of the node at hand that writes `made`; shown: whether the graph has that tensor."""
        title = node_label(self._node) if self._node is not None else made.name
        storages = tuple(x.storage for x in reads if x.storage >= 0)
        self.steps.append(Step(title, code, storages, made.storage, shown=[made] if shown else [], **more))

    def declare(self, kind: str, initialiser: str) -> tuple[str, str]:
        """(declaration, name) of a static constant structure of the next step."""
        name = f"{kind.removeprefix('topfive_')}_{len(self.steps)}"
        return f"static const {kind} {name} = {initialiser};", name

    def copy(self, title: str, x: Tensor, y: Tensor) -> None:
        """A step of no node that copies x to y, which has x's shape in another order; it is not shown."""
        steps = x.steps
        loops = [Loop(y.shape[a], y.steps[a], steps[a]) for a in y.order]
        declaration, name = self.declare("topfive_walk", walk(loops))
        code = [f"{copier(x.dtype)}(&{name}, {x.address}, {y.address});"]
        reads = (x.storage,) if x.storage >= 0 else ()
        self.steps.append(Step(title, code, reads, y.storage, [declaration]))

    def use_scratch(self, size: int) -> None:
        """Make sure that the scratch memory holds this many bytes."""
        self.scratch = max(self.scratch, size)

    def use_zeros(self, count: int) -> None:
        """Make sure that this many zeros stand in for a padded position."""
        self.zeros = max(self.zeros, count)

    def activation(self, name: str) -> tuple[str, int, int]:
        """(tensor, low, high): the int8 activation that alone reads `name`, taken into its producer."""
        reader = self.sole_reader(name)
        if reader is None or reader.op_type not in ("Relu", "QLinearRelu", "Clip"):
            return (name, *CODES)
        bounds = self.code_bounds(reader)
        self.absorb(reader)
        return (reader.output[0], *bounds)

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, which is no output of the graph; else None."""
        return self.graph.sole_consumer(name, self._consumers)

    def absorb(self, node: onnx.NodeProto) -> None:
        """Note that a later node is part of the step at hand."""
        self._absorbed.add(id(node))

    def code_bounds(self, node: onnx.NodeProto) -> tuple[int, int]:
        """The lowest and highest code that a Relu or Clip on int8 lets through."""
        if node.op_type != "Clip":
            return 0, CODES[1]
        return int(self.number(node, 1, CODES[0])), int(self.number(node, 2, CODES[1]))


def copier(dtype: str) -> str:
    """The runtime's function that copies elements of this type."""
    return "topfive_copy_codes" if dtype == "int8" else "topfive_copy_floats"


def product(numbers: Sequence[int]) -> int:
    """The product of a shape's part; 1 for none."""
    return math.prod(numbers)
