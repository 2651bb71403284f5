"""Which simulator the tests of `gemmini_spike` run on: a real spike, or the stand-in beside these tests."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from topfive import targets
from topfive.targets.gemmini_qemu.toolchain import COMPILER, library_missing

STAND_IN = Path(__file__).resolve().parent / "emulators" / "gemmini_isa"
REAL = shutil.which("spike") is not None
MISSING = "" if REAL else targets.get("gemmini_qemu").probe() or library_missing(COMPILER)
simulated = pytest.mark.skipif(bool(MISSING), reason=f"no spike; its stand-in: {MISSING}")
emulated = pytest.mark.skipif(
    REAL or bool(MISSING), reason=MISSING or "a real spike is used, which counts nothing"
)


def use_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `spike` be found."""
    if not REAL:
        monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")


def executed(counts: Path) -> list[Counter[str]]:
    """What the stand-in executed from fence to fence (TOPFIVE_GEMMINI_COUNTS)."""
    lines = counts.read_text(encoding="utf-8").splitlines()
    return [Counter({k: int(n) for k, n in (part.split("=") for part in line.split())}) for line in lines]


def differences(counts: Path, layers: list[dict[str, Any]], images: int) -> list[str]:
    """Layers whose executed instructions are not the predicted ones, by fences from layer to layer."""
    found, *fences = executed(counts)
    wrong = (
        [] if found == Counter(config_ex=1, config_ld=3, config_st=2, flush=1, fence=1) else ["the beginning"]
    )
    at = 0
    for layer in layers * images:
        predicted = Counter({kind: n for kind, n in layer["instructions"].items() if n})
        issued: Counter[str] = sum(fences[at : at + predicted["fence"]], Counter())
        at += predicted["fence"]
        if issued != predicted:
            wrong.append(f"{layer['layer']}: {dict(issued)}, not {dict(predicted)}")
    return wrong if at == len(fences) else [*wrong, f"{len(fences)} fences, not {at}"]
