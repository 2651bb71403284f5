"""A card for an ONNX file that has none: what can be read from the graph is, the rest is guessed."""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from topfive.cards import Calibration, Card, Input, Output, Pictures, Source
from topfive.sources.checks import signature
from topfive.sources.onnx_file import read_graph, readable

__all__ = ["card_for_file"]

_QUANTISED = frozenset({"ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"})


def card_for_file(path: Path) -> Card:
    """The card of a bare ONNX file, for topfive.build("x.onnx", ...).

    From the graph: size, entries, logits or probabilities (a last Softmax), quantised or not. Guessed:
    profile "torchvision"; a background class if there are 1001 entries; pictures of pocket100, no labels.
    Raises FetchError if the file is not a classifier in ONNX.
    """
    model = read_graph(path)
    with readable(path):
        return _card(model, path)


def _card(model: onnx.ModelProto, path: Path) -> Card:
    found = signature(model, path)
    background = found.entries == 1001
    last = next((node.op_type for node in model.graph.node if found.output in node.output), "")
    return Card(
        name=re.sub(r"[^A-Za-z0-9_.+-]", "_", path.stem).lstrip("_.+-") or "model",
        description=f"the file {path.name}",
        source=Source(kind="file", path=str(path.resolve()).replace("$", "$$")),
        input=Input(size=found.size, profile="torchvision"),
        output=Output(
            kind="probabilities" if last == "Softmax" else "logits",
            classes=found.entries - background,
            background=background,
        ),
        pictures=Pictures(set="pocket100", count=8),
        calibration=Calibration(set="pocket100", count=100),
        tags=("file",),
        quantised=any(node.op_type in _QUANTISED for node in model.graph.node),
        path=path,
    )
