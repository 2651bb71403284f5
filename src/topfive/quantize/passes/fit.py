"""Running a recipe: from a float model and pictures to the adjustments of one quant mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.graph import Graph
from topfive.quantize.adjusted import rewritten
from topfive.quantize.adjustments import Adjustments
from topfive.quantize.calibration import Method, measure, minmax
from topfive.quantize.passes.absorb import absorbable
from topfive.quantize.passes.batches import batches
from topfive.quantize.passes.channels import Floats
from topfive.quantize.passes.equalize import (
    Activity,
    equalizing_factors,
    measure_activity,
    silent_channels,
)
from topfive.quantize.passes.recipe import Equalize, Recipe, Silence
from topfive.quantize.passes.values import OpenInteger
from topfive.quantize.passes.walk import Walk
from topfive.quantize.ranges import RangeTable
from topfive.quantize.symmetric import DepthwiseScales

__all__ = ["MODES", "Fitter"]

MODES: Mapping[str, DepthwiseScales] = MappingProxyType({"int8": "tensor", "int8_dw": "channel"})
"""The quant modes that recipes are for, and what they do with depthwise convolutions."""


@dataclass(frozen=True)
class _Pictures:
    """Pictures in memory, as `measure` wants them."""

    values: NDArray[np.float32]

    @property
    def names(self) -> list[str]:
        """Numbers."""
        return [f"calibration picture {number + 1}" for number in range(len(self.values))]

    def load(self, index: int) -> NDArray[np.float32]:
        """One picture as a batch."""
        return self.values[index : index + 1]


class Fitter:
    """Finds the adjustments of recipes for one model and one set of pictures.

    model: optimised float ONNX. pictures: [N, C, H, W] float32 in the model's input layout. open_integer,
    progress: see `Walk`. What recipes share is computed once. Results are the same bits for the same numpy
    and onnxruntime on the same processor; what a build makes of them is the same everywhere.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        pictures: NDArray[np.float32],
        open_integer: OpenInteger,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model = model
        self.pictures = pictures
        self.open_integer = open_integer
        self.progress = progress
        self._activity: Activity | None = None
        self._factors: dict[tuple[Silence | None, Equalize | None, str], dict[str, Floats]] = {}

    def fit(self, mode: str, recipe: Recipe) -> Adjustments:
        """Run a recipe for a quant mode of MODES.

        Raises CalibrateError when there are no pictures or an activation is not finite.
        """
        depthwise = MODES[mode]
        factors = self._equalised(recipe, depthwise)
        absorbed: dict[str, Floats] = {}
        if recipe.absorb_bias is not None:
            absorbed = absorbable(rewritten(self.model, factors, {}), self.pictures)
        graph = rewritten(self.model, factors, absorbed)
        table = _ranges(graph, self.pictures, recipe)
        found = Adjustments(mode, recipe.name, table, recipe.passes, factors, absorbed)
        if not recipe.walks:
            return found
        walk = Walk(graph, table.ranges, depthwise, recipe, self.pictures, self.open_integer, self.progress)
        walk.run()
        return replace(
            found,
            table=replace(table, ranges=walk.found_ranges),
            weight_scales=walk.weight_scales,
            rounding=walk.rounding,
            biases=walk.biases,
        )

    def _equalised(self, recipe: Recipe, depthwise: DepthwiseScales) -> dict[str, Floats]:
        """Factors of the output channels; 0 for those that are silenced."""
        key = recipe.silence, recipe.equalize, depthwise
        if key not in self._factors:
            self._factors[key] = self._find_factors(*key)
        return self._factors[key]

    def _find_factors(
        self, silence: Silence | None, equalize: Equalize | None, depthwise: str
    ) -> dict[str, Floats]:
        factors: dict[str, Floats] = {}
        if silence is None and equalize is None:
            return factors
        if self._activity is None:
            self._activity = measure_activity(Graph(self.model), self.pictures)
        if silence is not None:
            factors = silent_channels(self._activity)
        if equalize is not None:
            graph = rewritten(self.model, factors, {})
            own = depthwise == "channel"
            found = equalizing_factors(graph, self._activity, equalize, own_depthwise_scales=own)
            for name, values in found.items():
                factors[name] = values * factors[name] if name in factors else values
        return factors


def _ranges(graph: Graph, pictures: NDArray[np.float32], recipe: Recipe) -> RangeTable:
    model, settings = graph.to_model(), recipe.ranges
    if settings is None or settings.method == "minmax":
        return minmax(model, batches(graph, pictures))
    method = Method(settings.method, symmetric=True, percentile=settings.percentile)
    return measure(model, _Pictures(pictures), method)
