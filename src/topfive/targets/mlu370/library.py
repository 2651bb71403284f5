"""MagicMind, where it is installed: its modules, its version, and the checks of what its calls return."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from types import ModuleType
from typing import Any

from topfive.errors import StageError
from topfive.targets.packages import is_installed, package_docstring
from topfive.targets.tools import find_tool, is_emulated, said_about_itself

__all__ = [
    "MM_RUN",
    "SIMULATED",
    "checked",
    "datatypes",
    "emulated",
    "find_mm_run",
    "identities",
    "missing",
    "parser_class",
    "present",
    "runtime",
]

RUNTIME = "magicmind.python.runtime"
MM_RUN = "mm_run"
NEUWARE = "/usr/local/neuware"
SIMULATED = (
    "emulated tools, MagicMind's documented arithmetic on the CPU; throughput and times are the CPU's, "
    "not an MLU's"
)


def find_mm_run() -> str | None:
    """The path of mm_run: in PATH, $MM_RUN_PATH, or $NEUWARE_HOME/bin (default /usr/local/neuware)."""
    home = os.environ.get("NEUWARE_HOME") or NEUWARE
    own = os.environ.get("MM_RUN_PATH", "")
    return find_tool(MM_RUN, [*([own] if own else []), f"{home}/bin"])


def missing() -> str:
    """Why nothing runs here, naming exactly what is not installed, or ""."""
    reasons = []
    if not is_installed("magicmind"):
        reasons.append("the Python package magicmind is not installed: it comes with Cambricon's MagicMind")
    if find_mm_run() is None:
        reasons.append(f"{MM_RUN} is not in PATH, $MM_RUN_PATH or $NEUWARE_HOME/bin: install MagicMind")
    return "; ".join(reasons)


def runtime() -> ModuleType:
    """The module `magicmind.python.runtime`."""
    return importlib.import_module(RUNTIME)


def parser_class() -> Any:
    """The class `Parser`, which has a module of its own."""
    return importlib.import_module(f"{RUNTIME}.parser").Parser


def datatypes() -> Any:
    """The module with `get_datatype_by_numpy`."""
    return importlib.import_module("magicmind.python.common.types")


def emulated() -> bool:
    """Whether the library or the tool says that it is emulated."""
    if is_emulated(package_docstring("magicmind")):
        return True
    tool = find_mm_run()
    return tool is not None and is_emulated(said_about_itself((tool, "-h")))


def identities() -> dict[str, str]:
    """Version of the library, "absent" without it, "unknown" where it does not say."""
    if not is_installed("magicmind"):
        return {"magicmind": "absent"}
    module = importlib.import_module("magicmind")
    version = getattr(module, "__version__", None)
    if version is None:
        try:
            version = importlib.metadata.version("magicmind")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
    return {"magicmind": f"{version}{' (emulated)' if emulated() else ''}"}


def checked(status: Any, call: str, error: type[StageError]) -> None:
    """Raise `error` naming the call unless its Status is ok. Some calls of some versions return nothing."""
    if status is not None and not status.ok():
        raise error(f"MagicMind's {call} failed: {status}")


def present(made: Any, call: str, error: type[StageError]) -> Any:
    """What a call made; `error` naming the call when that is None."""
    if made is None:
        raise error(f"MagicMind's {call} returned nothing")
    return made
