"""`tensorrt_sim`: TensorRT's arithmetic on the CPU."""

from __future__ import annotations

from typing import ClassVar

from topfive.targets.twins.target import FLOATS, TwinTarget

__all__ = ["TensorrtSimTarget"]


class TensorrtSimTarget(TwinTarget):
    """float32 without TF32, float16, and int8 with every layer that can in int8; the rest is float32 then."""

    name: ClassVar[str] = "tensorrt_sim"
    quants: ClassVar[tuple[str, ...]] = (*FLOATS, "int8")
    simulated: ClassVar[str] = "TensorRT's documented arithmetic on the CPU; times are the CPU's, not a GPU's"
    placements: ClassVar[dict[str, str]] = {"int8": "tensorrt"}
