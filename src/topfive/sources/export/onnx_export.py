"""Writing a PyTorch network as an ONNX file with a dynamic batch, and checking the file against it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from topfive.cards import Card
from topfive.errors import FetchError
from topfive.sources.atomic import remove_parts, replacing
from topfive.sources.export.exported import (
    DEFAULT_OPSET,
    exported_path,
    file_sha256,
    note_path,
    write_note,
)
from topfive.sources.export.networks import build_network

__all__ = ["FLOAT16_MAX", "Exported", "clip_to_float16", "export"]

FLOAT16_MAX = 65504.0
INPUT, OUTPUT = "input", "output"
CHECKED_BATCHES = (1, 3)
ALLOWED = 2e-3
"""Largest difference between ONNX Runtime's and PyTorch's logits, relative to the largest logit."""


@dataclass(frozen=True)
class Exported:
    """What an export gave. difference: the largest over CHECKED_BATCHES, relative to the largest logit.

    spread: standard deviation of the logits over the classes. outside_float16: weights beyond +-65504 in the
    network (`clipped` says whether the file has them clipped).
    """

    path: Path
    model: str
    weights: str
    opset: int
    parameters: int
    nodes: int
    difference: float
    spread: float
    outside_float16: int
    clipped: bool
    versions: dict[str, str]
    sha256: str


def export(
    card: Card,
    downloads: Path,
    *,
    opset: int | None = None,
    seed: int | None = None,
    clip_float16: bool = False,
) -> Exported:
    """Export a card's network into `downloads` and check it; a note beside the file says what it is.

    seed: None for published weights (network access), else random ones. clip_float16: clip float32 weights to
    the range of float16 before the file is written. Raises FetchError, also when ONNX Runtime and PyTorch
    differ by more than ALLOWED.
    """
    out = exported_path(card, downloads, opset=opset, seed=seed)
    version = opset or card.source.opset or DEFAULT_OPSET
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):
        remove_parts(out)
        remove_parts(note_path(out))
        network = build_network(card, seed=seed)
        outside = clip_to_float16(network, apply=clip_float16)
        with replacing(out) as temporary:
            _write(network, card.input.size, version, temporary)
            difference, spread = _compare(network, card, temporary)
        found = Exported(
            path=out,
            model=card.source.model,
            weights=(card.source.revision or "default") if seed is None else f"random, seed {seed}",
            opset=version,
            parameters=sum(int(weight.numel()) for weight in network.parameters()),
            nodes=_nodes(out),
            difference=difference,
            spread=spread,
            outside_float16=outside,
            clipped=clip_float16 and outside > 0,
            versions=_versions(card),
            sha256=file_sha256(out),
        )
        write_note(out, {**asdict(found), "path": out.name})
    return found


def clip_to_float16(network: Any, *, apply: bool) -> int:
    """How many weights lie outside +-FLOAT16_MAX; with `apply` they are clipped in place."""
    import torch

    count = 0
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.dtype == torch.float32:
                count += int((tensor.abs() > FLOAT16_MAX).sum())
                if apply:
                    tensor.clamp_(-FLOAT16_MAX, FLOAT16_MAX)
    return count


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing reaches this process's standard output within it, be it Python's or what C++ prints."""
    sys.stdout.flush()
    output, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)
        os.dup2(output, 1)
        os.close(output)
        os.close(nowhere)


def _write(network: Any, size: tuple[int, int], opset: int, out: Path) -> None:
    import torch

    # Gradients stay on: without them attention takes a fused path that has no ONNX form. The exporter prints
    # the graph that it failed at: that belongs into no command's output.
    with warnings.catch_warnings(), silent():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it takes as constant
        try:
            torch.onnx.export(
                network,
                (torch.randn(1, 3, *size),),
                str(out),
                opset_version=opset,
                do_constant_folding=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                dynamo=False,
            )
        except Exception as error:  # torch raises many kinds; each means that there is no file
            raise FetchError(f"torch.onnx.export failed at opset {opset}", details=str(error)) from error


def _compare(network: Any, card: Card, path: Path) -> tuple[float, float]:
    """Largest relative difference between ONNX Runtime and PyTorch, and the spread of the logits."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst, spread = 0.0, 0.0
    for batch in CHECKED_BATCHES:
        pictures = torch.randn(batch, 3, *card.input.size, generator=generator)
        with torch.no_grad():
            wanted = network(pictures).numpy()
        got = session.run(None, {INPUT: pictures.numpy()})[0]
        if got.shape != (batch, card.output.entries):
            raise FetchError(
                f"{card.path}: the network gives {list(got.shape)}, the card says "
                f"{[batch, card.output.entries]}: correct [output]"
            )
        worst = max(worst, float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30)))
        spread = float(wanted.std(axis=1).mean())
    if not worst <= ALLOWED:
        raise FetchError(
            f"{card.name}: ONNX Runtime and PyTorch differ by {worst:.2e} of the largest logit "
            f"(allowed: {ALLOWED:.0e})"
        )
    return worst, spread


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(str(path), load_external_data=False).graph.node)


def _versions(card: Card) -> dict[str, str]:
    from importlib.metadata import version

    names = ["torch", "torchvision", "onnx", "onnxruntime"]
    names += ["transformers"] if card.source.kind == "huggingface" else []
    return {name: version(name) for name in names}
