"""What the commands of `topfive` do."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["print_json"]


def print_json(value: Any) -> None:
    """Write a value to standard output as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
