"""What the tests of `aic100` share: real tools if they are installed, else emulated ones; a small build."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import topfive
from topfive.targets import tools as tools_module
from topfive.targets.aic100 import probe
from topfive.targets.aic100.toolchain import find_tools
from topfive.targets.base import Artifact

EMULATORS = Path(__file__).resolve().parent / "emulators" / "aic100"
REAL = not find_tools().missing("compiler", "runner", "utility") and not find_tools().simulation()
emulated = pytest.mark.skipif(REAL, reason="real tools are installed, which cannot be told to fail")


class Emulated:
    """The emulated tools: `told(failure="run_hang", nsp_free=[0, 14])` decides what they do from now on."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._file = folder / "emulated-device.json"
        self._patch = patch

    def install(self, tools: Path = EMULATORS) -> None:
        """Put them into PATH; nothing happens where real tools are installed."""
        if REAL:
            return
        self._patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        self._patch.setenv("TOPFIVE_EMULATOR_PYTHON", sys.executable)
        self._patch.setenv("TOPFIVE_EMULATED_AIC100", str(self._file))
        self._patch.setenv("TOPFIVE_AIC100_SUDO", "no")
        self.told()

    def told(self, **state: Any) -> None:
        self._file.write_text(json.dumps(state), encoding="utf-8")
        Path(f"{self._file}.queries").unlink(missing_ok=True)
        # What was asked of another device.
        probe._device.cache_clear()

    @property
    def queries(self) -> int:
        """How often the device was asked since."""
        counter = Path(f"{self._file}.queries")
        return int(counter.read_text(encoding="utf-8")) if counter.exists() else 0


def installed(folder: Path, patch: pytest.MonkeyPatch) -> Emulated:
    """The tools, well and free; runs that fail leave their working directories in folder/temporary."""
    patch.setattr(tools_module, "GRACE_SECONDS", 0.2)
    (folder / "temporary").mkdir()
    patch.setattr("tempfile.tempdir", str(folder / "temporary"))
    found = Emulated(folder, patch)
    found.install()
    return found


MODEL = "pocket_resnet"
SMALL = {"batch-size": "4", "cores": "2", "instances": "2", "set-size": "2"}
MOTIF = "B4-C2-A2-OLS2-best-throughput"
QUICK = {"time": "1"}


def build(cache: Path, **options: str) -> Artifact:
    """A small model for two instances of two NSPs."""
    chosen = {name.replace("_", "-"): value for name, value in options.items()}
    return topfive.build(
        MODEL, target="aic100", quant="force_float16", cache=cache, options={**SMALL, **QUICK, **chosen}
    )


def pictures(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 64, 64), np.float32)


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
