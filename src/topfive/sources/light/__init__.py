"""Nine full-size ImageNet networks without a download: the graphs of the onnx wheel, with seeded weights.

They are untrained: fit for measuring speed and for comparing logits, not classes. Weights are the same bits
on every machine (see topfive.sources.light.weights).
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import onnx

from topfive.sources.atomic import replacing
from topfive.sources.light.graph import ARCHITECTURES, light_file, skeleton
from topfive.sources.light.weights import write_model

__all__ = ["ARCHITECTURES", "STATISTICS", "fingerprint", "write"]

STATISTICS = Path(__file__).with_name("statistics.json")
"""Statistics of batch normalisations and last layers, made by `python -m topfive.sources.light --measure`."""

_RECIPE = 1  # raised whenever the same arguments would give another file


def write(architecture: str, seed: int, out: Path) -> None:
    """Write the network as one ONNX file; it appears whole or not at all. Takes about 100 MB of memory.

    Opset 17, input "data" float32 [batch, 3, 224, 224], output "logits" float32 [batch, 1000].

    Raises UnknownNameError for an architecture not in ARCHITECTURES, FetchError if it cannot be written.
    """
    frame = skeleton(architecture)
    with replacing(out) as temporary:
        write_model(frame, seed, _statistics()[architecture], temporary)


def fingerprint(architecture: str, seed: int) -> str:
    """64 hexadecimal digits that change whenever `write` would write another file; quickly made."""
    graph = hashlib.sha256(light_file(architecture).read_bytes()).hexdigest()
    parts = [_RECIPE, onnx.__version__, graph, seed, _statistics()[architecture]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _statistics() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(STATISTICS.read_text(encoding="utf-8"))
    return tables
