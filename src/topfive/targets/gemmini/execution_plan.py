"""An execution plan as data: what the Gemmini imagenet runner does with each node in one mode.

`execution.plan` makes one. docs/gemmini-execution.md explains the words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from topfive.errors import CompileError
from topfive.targets.gemmini.layers import Layer, Work

__all__ = [
    "CPU",
    "DATAFLOWS",
    "EXECUTIONS",
    "NHWC_LEVEL",
    "OPTIMIZATIONS",
    "SYSTOLIC",
    "TO_NCHW",
    "TO_NHWC",
    "Plan",
    "PlannedNode",
    "Refusal",
    "SubAction",
]

EXECUTIONS = ("0", "1", "2")
OPTIMIZATIONS = ("0", "1", "2", "99")
# The only level at which the NHWC transform and max-pool fusion run.
NHWC_LEVEL = "99"
# How matrix products run, by -x.
DATAFLOWS = {"0": "cpu", "1": "os", "2": "ws"}
SYSTOLIC, CPU = "Systolic", "CPU"
TO_NHWC, TO_NCHW = "ReorderToNHWC", "ReorderToNCHW"


SHOWN = 3


def _some(names: list[str]) -> str:
    """The first few of some names, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@dataclass(frozen=True)
class SubAction:
    """A step inside a node, done `count` times for a batch: "im2col", "bias splat" or "matmul".

    dimensions: of one matrix product as the runner's trace gives them, (output channels of a group, output
    pixels, depth); () for the others.
    """

    name: str
    count: int
    dimensions: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlannedNode:
    """One node in running order; a node that is fused into another is listed, and does nothing.

    name: the node's, else its first output's. provider: "Systolic" or "CPU". how: "conv_cpu", "LoopConv WS",
    "im2col + matmul", "matmul", "residual add", "fused", "ReorderToNHWC", "ReorderToNCHW", or "" for an
    operator of the CPU provider. reason: why it is not on Systolic, or not done directly. inputs: the
    activations that it reads. output: the tensor that it leaves, after what is fused into it. layout: of that
    tensor, "NHWC", or "NCHW" for one that was never reordered. relu, pool: names of the nodes fused into it;
    pool_on: where such a pool is done. fused_into: name of the node that does this one's work. work: what
    Gemmini computes, for the cycle model.
    """

    name: str
    op_type: str
    provider: str
    how: str
    inputs: tuple[str, ...]
    output: str
    layout: str = "NCHW"
    reason: str = ""
    relu: str = ""
    pool: str = ""
    pool_on: str = ""
    fused_into: str = ""
    steps: tuple[SubAction, ...] = ()
    work: Work | None = None

    def row(self) -> dict[str, Any]:
        """The node as JSON-able values; what is empty is left out, and so is `work`."""
        return {key: value for key, value in asdict(self).items() if value and key != "work"}


@dataclass(frozen=True)
class Refusal:
    """A node that the runner cannot run in this mode, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The execution plan of a graph in one mode.

    zero_padded: outputs of the max pools that Systolic does, in which padded positions count as 0; every
    other pool ignores padding. padded_on_cpu: outputs of the other int8 pools that have padding.
    """

    execution: str
    optimization: str
    batch: int
    nodes: tuple[PlannedNode, ...]
    refusals: tuple[Refusal, ...]
    zero_padded: frozenset[str]
    padded_on_cpu: tuple[str, ...]

    @property
    def dataflow(self) -> str:
        """How matrix products run: "cpu", "os" or "ws"."""
        return DATAFLOWS[self.execution]

    def reorders(self) -> dict[str, int]:
        """How many transposes of each kind are inserted."""
        found = Counter(node.how for node in self.nodes)
        return {kind: found[kind] for kind in (TO_NHWC, TO_NCHW)}

    def layers(self) -> list[Layer]:
        """The plan's work for the cycle model, in running order."""
        return [Layer(n.name, n.op_type, n.work, n.reason, n.fused_into) for n in self.nodes]

    def check(self) -> None:
        """Raise CompileError, with each node and its reason, if the runner cannot run this."""
        if not self.refusals:
            return
        by_reason: dict[str, list[str]] = {}
        for refusal in self.refusals:
            by_reason.setdefault(refusal.reason, []).append(refusal.node)
        first, *others = [f"{_some(nodes)}: {reason}" for reason, nodes in by_reason.items()]
        raise CompileError(
            f"the imagenet runner cannot run this with -x {self.execution} -O {self.optimization}: {first}",
            details="\n".join(f"  {text}" for text in others),
        )

    def described(self) -> dict[str, Any]:
        """The plan as JSON-able values, as artifacts store it."""
        return {
            "execution": self.execution,
            "optimization": self.optimization,
            "dataflow": self.dataflow,
            "reorders": self.reorders(),
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "padded_on_cpu": list(self.padded_on_cpu),
            "nodes": [node.row() for node in self.nodes],
        }
