"""What an installed Python package says about itself, without importing it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

__all__ = ["is_installed", "package_docstring"]


def is_installed(name: str) -> bool:
    """Whether a module can be found; never raises."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def package_docstring(name: str) -> str:
    """The documentation text of a top-level package or module; "" when it has none or is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    try:
        return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    except (OSError, ValueError, SyntaxError):
        return ""
