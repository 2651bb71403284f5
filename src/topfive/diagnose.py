"""Where a result first goes wrong: the text that a failed golden prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.targets.base import Artifact

__all__ = ["LayerQuality", "first_divergence", "layer_qualities"]

Array = NDArray[Any]
SHOWN = 5


@dataclass(frozen=True)
class LayerQuality:
    """How well an int8 tensor stands for the float32 tensor of the same name."""

    tensor: str
    sqnr: float
    cosine: float
    max_error: float


def _quality(tensor: str, exact: Array, approximate: Array) -> LayerQuality:
    """SQNR in dB (10 log10 of signal power over error power), cosine, and the largest absolute error."""
    a, b = exact.astype(np.float64).ravel(), approximate.astype(np.float64).ravel()
    error = float(np.square(a - b).sum())
    signal = float(np.square(a).sum())
    norms = np.sqrt(signal) * np.sqrt(float(np.square(b).sum()))
    sqnr = np.inf if error == 0 else 10 * np.log10(signal / error) if signal else -np.inf
    cosine = float(a @ b) / norms if norms else 1.0
    return LayerQuality(tensor, float(sqnr), cosine, float(np.abs(a - b).max(initial=0.0)))


def layer_qualities(
    int8: onnx.ModelProto, values: dict[str, Array], floats: dict[str, Array]
) -> list[LayerQuality]:
    """The quality of each int8 tensor against float32, in running order.

    int8: the int8 graph; values: its int8 tensors by name; floats: float32 tensors by name. An int8 tensor
    `x_quantized` stands for `x`; its scale is the constant `x_quantized.scale`.
    """
    from topfive.graph import Graph

    graph = Graph(int8)
    found = []
    for node in graph.nodes:
        for name in node.output:
            original = name.removesuffix("_quantized")
            scale = graph.constants.get(f"{name}.scale")
            if original == name or scale is None or name not in values or original not in floats:
                continue
            found.append(_quality(original, floats[original], values[name].astype(np.float32) * scale))
    return found


def first_divergence(artifact: Artifact, batch: Array) -> str:
    """Text that says which layer first departs from its reference for one batch.

    An exact target is compared with the numpy form, node by node on the tensors that it really computed. If
    every node agrees, the arithmetic is right and the model or its calibration has changed: then the layers
    that lose most against float32 are listed. Targets that cannot show their tensors say so.
    """
    import topfive
    from topfive.targets.gemmini.reference import mismatches
    from topfive.targets.gemmini.target import INT8_FILE

    int8_file = artifact.path / INT8_FILE
    if not int8_file.is_file():
        return f"{artifact.target}, {artifact.quant} has no integer reference to compare layer by layer"
    with topfive.open(artifact) as runner:
        observed = runner.tensors(batch)
    int8 = onnx.load(int8_file)
    first = next(mismatches(int8, observed, batch), None)
    if first is not None:
        return f"first diverging layer against the numpy form: {first}"
    text = "every layer equals the numpy form: the model, calibration or pictures changed, not the arithmetic"
    worst = _against_float(artifact, int8, observed, batch)
    return f"{text}\n{worst}" if worst else text


def _against_float(
    artifact: Artifact, int8: onnx.ModelProto, observed: dict[str, Array], batch: Array
) -> str:
    import topfive
    from topfive.errors import TopfiveError

    try:
        float_artifact = topfive.build(artifact.model, target="cpu", quant="force_float32")
        with topfive.open(float_artifact) as runner:
            floats = runner.tensors(batch)
    except TopfiveError:
        return ""
    ranked = sorted(layer_qualities(int8, observed, floats), key=lambda q: q.sqnr)
    lines = [
        f"  {q.tensor}: SQNR {q.sqnr:.1f} dB, cosine {q.cosine:.5f}, max error {q.max_error:.4g}"
        for q in ranked[:SHOWN]
    ]
    return "layers that lose most against float32:\n" + "\n".join(lines) if lines else ""
