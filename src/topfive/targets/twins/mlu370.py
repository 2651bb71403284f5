"""`mlu370_sim`: the arithmetic of Cambricon's MagicMind for the MLU370, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from topfive.targets.base import TargetOption
from topfive.targets.twins.target import FLOATS, TwinTarget

__all__ = ["Mlu370SimTarget"]


class Mlu370SimTarget(TwinTarget):
    """MagicMind's three precision modes of the resnet50_onnx sample; activations symmetric, as it sets."""

    name: ClassVar[str] = "mlu370_sim"
    quants: ClassVar[tuple[str, ...]] = (*FLOATS, "qint8_mixed_float16")
    simulated: ClassVar[str] = (
        "MagicMind's documented arithmetic on the CPU; times are the CPU's, not an MLU's"
    )
    placements: ClassVar[dict[str, str]] = {"qint8_mixed_float16": "magicmind"}
    halves: ClassVar[tuple[str, ...]] = ("force_float16", "qint8_mixed_float16")
    options: ClassVar[Mapping[str, TargetOption]] = MappingProxyType(
        {
            "weight_quant_granularity": TargetOption(
                ("per_tensor", "per_axis"),
                "per_tensor",
                "scales of int8 weights, as precision_config names them (default per_tensor, the sample's)",
            )
        }
    )

    def weights(self) -> str:
        """The option."""
        return self.setting("weight_quant_granularity")
