"""`aic100_sim`: the arithmetic of Qualcomm's Cloud AI 100 with `-convert-to-fp16`, on the CPU."""

from __future__ import annotations

from typing import ClassVar

from topfive.targets.twins.target import TwinTarget

__all__ = ["Aic100SimTarget"]


class Aic100SimTarget(TwinTarget):
    """Every floating-point tensor in float16, as run_cv_classifier.py compiles all its models."""

    name: ClassVar[str] = "aic100_sim"
    quants: ClassVar[tuple[str, ...]] = ("force_float16",)
    simulated: ClassVar[str] = "float16 of -convert-to-fp16 on the CPU; times are the CPU's, not an AI 100's"

    def refuses(self, quant: str) -> str:
        """Only what `-convert-to-fp16` makes."""
        if quant in self.quants:
            return ""
        return f"aic100_sim runs what `-convert-to-fp16` makes of a model: force_float16, not {quant}"
