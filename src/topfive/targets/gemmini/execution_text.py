"""An execution plan as text, from the form in which artifacts store it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from topfive.targets.gemmini.execution_plan import CPU, SYSTOLIC

__all__ = ["node_text", "plan_text"]

WIDEST = 44
EXPLAINED = {"0": "Gemmini emulated on the CPU", "1": "output stationary", "2": "weight stationary"}


def plan_text(stored: Mapping[str, Any]) -> str:
    """A line a node in running order, then the counts; stored: `Plan.described()`, with `chosen`."""
    nodes = stored["nodes"]
    lines = [_mode(stored), f"{'node':<{WIDEST}} {'operator':<16} {'provider':<8}  how"]
    lines += [_line(node) for node in nodes]
    lines += [_counts(nodes, stored["reorders"])]
    lines += [f"the runner cannot run {r['node']} in this mode: {r['reason']}" for r in stored["refusals"]]
    lines += _padding(stored)
    return "\n".join([*lines, ""])


def _mode(stored: Mapping[str, Any]) -> str:
    mode = f"-x {stored['execution']} ({EXPLAINED[stored['execution']]}) -O {stored['optimization']}"
    return mode if stored["chosen"] else f"no -x and -O given; as {mode}"


def _line(node: Mapping[str, Any]) -> str:
    name = node["name"] if len(node["name"]) <= WIDEST else f"...{node['name'][3 - WIDEST :]}"
    return f"{name:<{WIDEST}} {node['op_type']:<16} {node['provider']:<8}  {node_text(node)}".rstrip()


def node_text(node: Mapping[str, Any]) -> str:
    """How one node of a stored plan runs, in words."""
    if "fused_into" in node:
        return f"fused into {node['fused_into']}"
    parts = [node["how"]] if "how" in node else []
    if "relu" in node:
        parts.append("with ReLU")
    if "pool" in node:
        place = "while storing" if node["pool_on"] == SYSTOLIC else "after it on the CPU"
        parts.append(f"with max pool {place}")
    text = " ".join(parts)
    reason = node.get("reason", "")
    return f"{text} ({reason})" if text and reason else text or reason


def _counts(nodes: list[Mapping[str, Any]], reorders: Mapping[str, int]) -> str:
    fused = sum("fused_into" in node for node in nodes)
    there = Counter(node["provider"] for node in nodes if "fused_into" not in node)
    inserted = ", ".join(f"{count} {kind}" for kind, count in reorders.items())
    on_cpu = there[CPU] - sum(reorders.values())
    return f"{there[SYSTOLIC]} nodes on Systolic, {fused} fused into them, {on_cpu} on the CPU; {inserted}"


def _padding(stored: Mapping[str, Any]) -> list[str]:
    pools = ", ".join(stored["padded_on_cpu"])
    if not pools:
        return []
    if stored["chosen"]:
        return [f"padded max pools on the CPU, which ignore padding: {pools}"]
    return [
        "padded max pools that count padding as 0 here, and ignore it with -x and -O (the same unless a map "
        f"is negative): {pools}"
    ]
