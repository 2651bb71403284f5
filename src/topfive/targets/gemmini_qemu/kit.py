"""What a program is made with: rules that turn nodes into C, the C that they call, the compiler's flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from topfive.targets.gemmini_qemu import float_rules, integer_rules, movement_rules
from topfive.targets.gemmini_qemu.emitter import Rule

__all__ = ["RUNTIME", "SCALAR", "SCALAR_RULES", "Kit"]

RUNTIME = Path(__file__).parent / "runtime"
SCALAR_RULES: Mapping[str, Rule] = {**movement_rules.RULES, **float_rules.RULES, **integer_rules.RULES}
# rv64gc without a C library. No contraction: a fused multiply-add would round once where ONNX rounds twice.
FREESTANDING = (
    "-O3 -static -march=rv64gc -mabi=lp64d -mcmodel=medany -std=gnu11 -Wall "
    "-ffreestanding -nostdlib -fno-pic -no-pie -fno-stack-protector "
    "-ffp-contract=off -fno-tree-loop-distribute-patterns"
)


@dataclass(frozen=True)
class Kit:
    """Rules and their runtime for one kind of program.

    sources: C files and headers that are copied beside the program. headers: those that it includes. start:
    a C statement that it begins with.
    """

    rules: Mapping[str, Rule]
    sources: tuple[Path, ...]
    flags: str
    headers: tuple[str, ...] = ("topfive.h",)
    start: str = ""

    @property
    def hosted(self) -> bool:
        """Whether the program is linked with a C library."""
        return "-ffreestanding" not in self.flags.split()


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h")))


SCALAR = Kit(SCALAR_RULES, _files(RUNTIME), FREESTANDING)
"""Scalar C without a C library."""
