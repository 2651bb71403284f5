"""Nothing is measured while something else runs: benchmarks and xdist exclude each other.

pytest-benchmark alone switches itself off under xdist: with --benchmark-compare-fail the run is green and
nothing was compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MEASURED_KINDS", "NEVER_PARALLEL", "conflict_with_xdist", "named_markers"]

MEASURED_KINDS = ("latency", "throughput", "scenario")
NEVER_PARALLEL = "never measured while something else runs: benchmarks need a run without -n"
OPTIONS = (
    "benchmark_only",
    "benchmark_compare",
    "benchmark_compare_fail",
    "benchmark_json",
    "benchmark_save",
    "benchmark_autosave",
    "benchmark_enable",
    "benchmark_histogram",
    "benchmark_cprofile",
    "benchmark_cprofile_dump",
    "topfive_csv",
    "trace_dir",
)
NEGATED = re.compile(r"\bnot\s*(\([^()]*\)|[\w.]+)")


def conflict_with_xdist(options: Mapping[str, Any]) -> str:
    """Why these options (by their dest) cannot go with -n, or "".

    `-m "not latency"` is no conflict: what it leaves can run in parallel.
    """
    given = [name for name in OPTIONS if options.get(name) not in (None, False, [], "")]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        return f"{flags} cannot go with -n: {NEVER_PARALLEL}"
    wanted = named_markers(str(options.get("markexpr") or ""), MEASURED_KINDS)
    if wanted:
        return f"-m selects {' and '.join(wanted)}, which cannot go with -n: {NEVER_PARALLEL}"
    return ""


def named_markers(expression: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that a -m expression selects; `not NAME` selects nothing."""
    wanted = NEGATED.sub("", expression)
    return [name for name in names if re.search(rf"\b{name}\b", wanted)]
