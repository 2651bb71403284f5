"""How a float model becomes what a target compiles: which function rewrites it, and what decides its result.

A target names its quantisers (`Target.quantiser`) without loading them; the pipeline loads and runs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["QUANTISERS", "Quantiser"]

COMMON = (
    "topfive.graph",
    "topfive.quantize.rewriter",
    "topfive.quantize.symmetric",
    "topfive.quantize.float16",
)
ADJUSTING = (
    "topfive.quantize.adjusted",
    "topfive.quantize.adjustments",
    "topfive.quantize.passes.absorb",
    "topfive.quantize.passes.channels",
)
SYMMETRIC = "topfive.quantize.symmetric:quantize_symmetric"
ADJUSTED = "topfive.quantize.adjusted:quantize_adjusted"


@dataclass(frozen=True)
class Quantiser:
    """A function from an optimised float model to the model in a quant mode.

    function: "module:name"; it takes the model, the range table if `calibrated`, and `settings` as keyword
    arguments, and returns the rewritten model. modules: those whose code decides the result. packages: those
    whose version does. adjusted: a function that takes adjustments (`topfive.quantize.adjustments`) in place
    of the range table, if the mode has one.
    """

    function: str
    calibrated: bool = False
    adjusted: str = ""
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    modules: tuple[str, ...] = COMMON
    packages: tuple[str, ...] = ()

    def load(self) -> Callable[..., onnx.ModelProto]:
        """The function itself."""
        module, _, name = self.function.partition(":")
        found: Callable[..., onnx.ModelProto] = getattr(importlib.import_module(module), name)
        return found

    def for_adjustments(self) -> Quantiser:
        """What quantises when there are adjustments."""
        return replace(self, function=self.adjusted, calibrated=False, modules=(*self.modules, *ADJUSTING))

    def fields(self) -> dict[str, Any]:
        """What the quantize stage's key holds of it, besides the code of `modules`."""
        versions = {name: str(importlib.import_module(name).__version__) for name in self.packages}
        return {**versions, **({"settings": dict(self.settings)} if self.settings else {})}


QUANTISERS: Mapping[str, Quantiser] = MappingProxyType(
    {
        "force_float16": Quantiser("topfive.quantize.float16:quantize_float16", packages=("onnxruntime",)),
        "int8": Quantiser(SYMMETRIC, calibrated=True, adjusted=ADJUSTED),
        "int8_dw": Quantiser(
            SYMMETRIC,
            calibrated=True,
            adjusted=ADJUSTED,
            settings=MappingProxyType({"depthwise": "channel"}),
        ),
    }
)
"""Quant mode -> how `cpu` and Gemmini's targets quantise; a mode that is not here leaves the float model."""
