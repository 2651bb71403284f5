"""What the emulated tools of an AI 100 share: who they are, the device's state, how they are told to fail.

TOPFIVE_EMULATED_AIC100=FILE, JSON, all of it optional:
  failure      one of the failures that the tools know, by name
  devices      numbers of the devices (default [0])
  nsp_total, nsp_free, status, temperature
               of the device; a list is what one query after another gets, the last for all later ones
  children     a file to which the process numbers of a tool that hangs are written
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

VARIABLE = "TOPFIVE_EMULATED_AIC100"
MAGIC = b"topfive's emulated QPC\n"
PROGRAM = "programqpc.bin"


def introduction(tool: str) -> str:
    return f"topfive's emulated {tool}: float16 arithmetic on the CPU, no AI 100"


def state() -> dict[str, Any]:
    name = os.environ.get(VARIABLE, "")
    told = json.loads(Path(name).read_text(encoding="utf-8")) if name else {}
    whole = {
        "failure": "",
        "devices": [0],
        "nsp_total": 14,
        "nsp_free": 14,
        "status": "Ready",
        "temperature": 41.5,
        "children": "",
    }
    return whole | told


def count_query() -> int:
    """How many queries there were before this one; 0 without a file to count in."""
    name = os.environ.get(VARIABLE, "")
    if not name:
        return 0
    counter = Path(f"{name}.queries")
    before = int(counter.read_text(encoding="utf-8")) if counter.exists() else 0
    counter.write_text(str(before + 1), encoding="utf-8")
    return before


def now(value: Any, query: int) -> Any:
    return value[min(query, len(value) - 1)] if isinstance(value, list) else value


def hang(told: dict[str, Any]) -> NoReturn:
    """Never end, with a child, deaf to the polite signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    if told["children"]:
        Path(told["children"]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    while True:
        time.sleep(1)


def die() -> NoReturn:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
