"""uint8 as the Gemmini imagenet runner's quantiser makes it: per tensor, with a zero point.

Weights are uint8 with a zero point as well. Gemmini itself cannot run such a model: its zero points are 0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.graph import Graph
from topfive.quantize.ranges import RangeTable
from topfive.quantize.rewriter import Rewriter, Weights

__all__ = ["activation_parameters", "quantize_asymmetric", "quantize_uint8_weights"]

STEPS = 255
ZERO_RANGE = 1e-8


def activation_parameters(low: float, high: float) -> tuple[np.float32, int]:
    """Scale `(high - low) / 255` in float32 and zero point `round(clip(-low / scale, 0, 255))` of a range.

    0 is put inside the range; 1.0 and 0 for a range of zero. Rounds half to even. Source:
    calculate_scale_zeropoint of the imagenet runner's calibrate.py.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(1.0) if high - low < ZERO_RANGE else np.float32((high - low) / STEPS)
    return scale, round(min(max(-low / float(scale), 0.0), float(STEPS)))


def quantize_uint8_weights(weights: NDArray[np.float32]) -> Weights:
    """uint8 codes: scale = (max - min) / 255, zero = round(-min / scale), codes = rint(w / scale) + zero.

    0 is put inside the range. In float64, as quantize_data of the imagenet runner's quantiser; a code of 256,
    which wraps to 0 there, is 255 here. Shape is kept.
    """
    low, high = min(float(weights.min(initial=0.0)), 0.0), max(float(weights.max(initial=0.0)), 0.0)
    scale = 1.0 if high - low < ZERO_RANGE else (high - low) / STEPS
    zero = round(-low / scale)
    codes = np.rint(weights.astype(np.float64) / scale) + zero
    return Weights(np.clip(codes, 0, STEPS).astype(np.uint8), np.float32(scale), zero)


def quantize_asymmetric(model: onnx.ModelProto, table: RangeTable) -> onnx.ModelProto:
    """Rewrite an optimised float model to uint8 with the ranges of a calibration.

    Raises QuantizeError as `topfive.quantize.symmetric.quantize_symmetric` does.
    """
    return Asymmetric(Graph(model), table.ranges).run()


class Asymmetric(Rewriter):
    """uint8 codes; every tensor has a zero point of its own."""

    dtype: ClassVar[type[np.int8 | np.uint8]] = np.uint8

    def parameters(self, low: float, high: float) -> tuple[np.float32, int]:
        """See `activation_parameters`."""
        return activation_parameters(low, high)

    def zero_name(self, tensor: str, zero: int) -> str:
        """A constant named after the tensor."""
        return self.graph.constant(f"{tensor}.zero_point", zero, np.uint8)

    def weights(self, values: NDArray[np.float32]) -> Weights:
        """See `quantize_uint8_weights`."""
        return quantize_uint8_weights(values)

    def _relu(self, node: onnx.NodeProto) -> bool:
        """No operator where the zero point is 0, which no code is below; else Clip at the zero point."""
        if node.input[0] not in self.quantised:
            return False
        x = self.quantised[node.input[0]]
        if x.zero:
            self._clip_codes(node, 0.0, np.inf)
        else:
            self.quantised[node.output[0]] = x
        return True
