"""Where a result first goes wrong: the text that a failed golden prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

import topfive
from topfive.cards import Card
from topfive.errors import TopfiveError
from topfive.layer_diff import compare_layers
from topfive.targets.base import Artifact
from topfive.targets.gemmini.reference import mismatches
from topfive.targets.gemmini.target import INT8_FILE

__all__ = ["first_divergence"]

Array = NDArray[Any]
SHOWN = 5


def first_divergence(
    artifact: Artifact, batch: Array, *, card: Card | None = None, cache: Path | None = None
) -> str:
    """Text that says which layer first departs from its reference for one batch.

    An integer artifact is compared with the numpy form, node by node on the tensors that it really computed.
    If every node agrees, the arithmetic is right and the model or its calibration has changed: then, as for
    float artifacts, the layers that lose most against float32 are listed. card: the artifact's model (by
    default the card of that name that comes with topfive). cache: where the float32 build is kept.
    """
    int8_file = artifact.path / INT8_FILE
    if not int8_file.is_file():
        return _against_float(artifact, batch, card, cache) or "this target cannot show its tensors"
    with topfive.open(artifact) as runner:
        observed = runner.tensors(batch)
    pools = artifact.meta.get("zero_padded_pools")
    first = next(mismatches(onnx.load(int8_file), observed, batch, zero_padded=pools), None)
    if first is not None:
        return f"first diverging layer against the numpy form: {first}"
    text = "every layer equals the numpy form: the model, calibration or pictures changed, not the arithmetic"
    worst = _against_float(artifact, batch, card, cache)
    return f"{text}\n{worst}" if worst else text


def _against_float(artifact: Artifact, batch: Array, card: Card | None, cache: Path | None) -> str:
    try:
        reference = topfive.build(card or artifact.model, target="cpu", quant="force_float32", cache=cache)
        layers = compare_layers(reference, artifact, batch).layers
    except TopfiveError:
        return ""
    lines = [
        f"  {q.tensor}: SQNR {q.sqnr:.1f} dB, cosine {q.cosine:.5f}, max error {q.max_error:.4g}"
        for q in sorted(layers, key=lambda q: q.sqnr)[:SHOWN]
    ]
    return "\n".join(["layers that lose most against float32:", *lines])
