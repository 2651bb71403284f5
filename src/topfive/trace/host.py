"""The host lane: how long each node really took on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topfive.targets.gemmini.execution import PlannedNode
from topfive.targets.profiling import NodeTime, Profile
from topfive.trace.events import HOST, KERNEL, NODE_CATEGORY, SESSION_CATEGORY, Event, complete
from topfive.trace.origins import Origin
from topfive.trace.steps import StepTimes, divided

__all__ = ["CPU", "LANE", "host_events"]

CPU = "CPU"
LANE = (HOST, 1)
# ONNX Runtime's channels-last kernels of standard operators.
CHANNELS_LAST = "Nhwc"


def host_events(
    profile: Profile, origins: Sequence[Origin], plan: Mapping[str, PlannedNode], steps: StepTimes
) -> list[Event]:
    """Events of the session, of each run, of each node and of the steps in it.

    origins: of the compiled model's nodes, by place. plan: planned nodes by label; what is not in it runs on
    the CPU. steps: how long steps take alone, by which a kernel's time is divided among its own.
    """
    events = [complete(s.name, SESSION_CATEGORY, LANE, s.start, s.duration, {}) for s in profile.session]
    for number, run in enumerate(profile.runs, start=1):
        for span in run.around:
            args = {"run": number}
            events.append(complete(span.name, SESSION_CATEGORY, LANE, span.start, span.duration, args))
        for place, node in enumerate(run.nodes):
            where = {"exec_plan_index": place, "run": number}
            if node.node is None:
                said = {"op_name": node.op, "provider": CPU, **node.facts, **where, "made_by": "onnxruntime"}
                events.append(_kernel(f"{node.name}{KERNEL}", node, said))
            else:
                events += _node_events(node, where, origins[node.node], plan, steps)
    return events


def _node_events(
    node: NodeTime,
    where: Mapping[str, int],
    origin: Origin,
    plan: Mapping[str, PlannedNode],
    steps: StepTimes,
) -> list[Event]:
    """A kernel, under the operator of the node that it is for, unless the runtime made another of it."""
    label, planned = origin.node.label, plan.get(origin.node.label)
    as_compiled = node.op.removeprefix(CHANNELS_LAST) == origin.compiled_op
    facts = {**node.facts, **origin.node.facts} if as_compiled and not origin.piece else node.facts
    args = {
        "op_name": origin.node.op_type if as_compiled else node.op,
        "provider": planned.provider if planned else CPU,
        **facts,
        "node": label,
        "graph_index": origin.node.index,
        **where,
    }
    if node.op != args["op_name"]:
        args["kernel"] = node.op
    if origin.piece:
        return [_kernel(f"{label}_kernel_{origin.piece}_time", node, {**args, "piece": origin.piece})]
    if planned and planned.fused_into:
        args["fused_into"] = planned.fused_into
    events = [_kernel(f"{label}{KERNEL}", node, args)]
    if planned and planned.steps and as_compiled:
        events += _steps(node, origin, planned, steps)
    return events


def _kernel(name: str, node: NodeTime, args: Mapping[str, Any]) -> Event:
    return complete(name, NODE_CATEGORY, LANE, node.start, node.duration, args)


def _steps(node: NodeTime, origin: Origin, planned: PlannedNode, steps: StepTimes) -> list[Event]:
    """The plan's steps, one after another, over the kernel's time; none if they cannot be told apart."""
    alone = steps.of(planned)
    if not alone and len(planned.steps) > 1:
        return []
    events, start = [], float(node.start)
    for step, duration in zip(planned.steps, divided(node.duration, planned.steps, alone), strict=True):
        args: dict[str, Any] = {
            "sub_action": step.name,
            "parent_op": origin.node.op_type,
            "parent": origin.node.label,
            "provider": planned.provider,
            "count": step.count,
        }
        if alone:
            args |= {"divided": "as alone", "alone_us": round(step.count * alone[step.name], 3)}
        if step.dimensions:
            args["dimensions"] = ", ".join(map(str, step.dimensions))
            args["relu_fused"] = "yes" if planned.relu else "no"
        layout = "nhwc_" if planned.layout == "NHWC" and step.name == "im2col" else ""
        name = f"{origin.node.label}_kernel_{layout}{step.name.replace(' ', '_')}_time"
        events.append(complete(name, NODE_CATEGORY, LANE, start, duration, args))
        start += duration
    return events
