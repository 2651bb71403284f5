"""The saturation hazard: how wrong ONNX Runtime's default uint8 x int8 kernels are here, and for a model.

On x86 processors without VNNI these kernels add pairs of products in int16, with saturation. Measured are
each kernel on full-range random codes against exact sums, and a model on pictures, by the default kernels
against exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import topfive
from topfive.cards import Card
from topfive.sessions import PROBE_CONVS, SHIFT, open_session, probe_model, shift_weights
from topfive.targets.base import Array
from topfive.targets.cpu import CpuTarget
from topfive.targets.gemmini.arithmetic import conv, depthwise_conv

__all__ = ["KernelFinding", "ModelFinding", "advice", "measure_kernels", "measure_model"]

SEED = 20
# Standard deviation of a random int8 code, and what that of a result is to be.
CODE_SPREAD, WANTED_SPREAD = 74.0, 40.0


@dataclass(frozen=True)
class KernelFinding:
    """Shares of wrong outputs of one kernel on full-range codes, by the way that it is asked for.

    default: uint8 x int8 as it is. precise: with session option session.x64quantprecision=1. uint8_weights:
    the weights given as uint8 with zero point 128.
    """

    kernel: str
    default: float
    precise: float
    uint8_weights: float


@dataclass(frozen=True)
class ModelFinding:
    """What the default kernels change of a model's results on some pictures.

    outputs, codes: shares of the output's elements, and of the exact int8 tensors' codes, that differ.
    largest: the largest difference of an output relative to the largest output. top1: pictures whose best
    class is another one.
    """

    model: str
    quant: str
    pictures: int
    outputs: float
    codes: float
    largest: float
    top1: int


def measure_kernels() -> list[KernelFinding]:
    """A finding for each kernel that ONNX Runtime has for uint8 activations and int8 weights."""
    rng = np.random.default_rng(SEED)
    found = []
    for name, x_shape, w_shape, group in PROBE_CONVS:
        x = rng.integers(0, 256, x_shape).astype(np.uint8)
        weights = rng.integers(-128, 128, w_shape).astype(np.int8)
        scale = WANTED_SPREAD / (CODE_SPREAD**2 * math.sqrt(math.prod(w_shape[1:])))
        exact = _exact(x, weights, group, np.float32(scale))
        model = probe_model(group, weights, x_shape, scale)
        whole, shifted = model.SerializeToString(), shift_weights(model).SerializeToString()
        shares = [
            _share(exact, open_session(data, threads=1, precise=precise).run(None, {"x": x})[0])
            for data, precise in ((whole, False), (whole, True), (shifted, False))
        ]
        found.append(KernelFinding(name, *shares))
    return found


def _exact(x: Array, weights: Array, group: int, scale: np.float32) -> Array:
    nhwc = (x.astype(np.int16) - SHIFT).astype(np.int8).transpose(0, 2, 3, 1)
    if group == x.shape[1] == weights.shape[0]:
        codes = depthwise_conv(nhwc, weights[:, 0], None, scale=scale)
    else:
        codes = conv(nhwc, weights.transpose(2, 3, 1, 0), None, scale=scale, groups=group)
    return (codes.transpose(0, 3, 1, 2).astype(np.int16) + SHIFT).astype(np.uint8)


def _share(exact: Array, seen: Array) -> float:
    """Share of elements that differ."""
    return float((exact != seen).mean())


def measure_model(
    card: Card,
    batches: Iterable[NDArray[Any]],
    *,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ModelFinding:
    """Run a model in int8 (a quantised one as it is) with exact and with default kernels.

    batches: at least one, in the model's input layout and dtype. Raises what `topfive.build` and `Runner.run`
    raise.
    """
    quant = "as_is" if card.quantised else "int8"
    artifact = topfive.build(card, target="cpu", quant=quant, cache=cache, progress=progress)
    scores: list[tuple[Array, Array]] = []
    changed = codes = 0
    target = CpuTarget()
    with target.open(artifact, kernels="exact") as exact, target.open(artifact, kernels="native") as native:
        for batch in batches:
            (wanted, tensors), (given, others) = exact.run_exact(batch), native.run_exact(batch)
            scores.append((wanted.reshape(len(batch), -1), given.reshape(len(batch), -1)))
            changed += sum(int((tensors[name] != others[name]).sum()) for name in tensors)
            codes += sum(tensor.size for tensor in tensors.values())
    left, right = (np.concatenate(side).astype(np.float64) for side in zip(*scores, strict=True))
    largest = float(np.abs(left).max())
    return ModelFinding(
        model=card.name,
        quant=quant,
        pictures=len(left),
        outputs=_share(left, right),
        codes=changed / codes if codes else 0.0,
        largest=float(np.abs(left - right).max()) / largest if largest else 0.0,
        top1=int((left.argmax(axis=1) != right.argmax(axis=1)).sum()),
    )


def advice(kernels: Sequence[KernelFinding], model: ModelFinding | None = None) -> list[str]:
    """What to do about it, a sentence a line."""
    wrong = [finding for finding in kernels if finding.default]
    if not wrong:
        return [
            "The default kernels are exact on this processor: nothing to do for results made here.",
            "The same file gives other results on x86 processors without VNNI: compare int8 results of other "
            "machines only if they were made by exact kernels.",
        ]
    said = [f"{len(wrong)} of {len(kernels)} default kernels lose sums on this processor."]
    if model is not None and not model.outputs and not model.codes:
        said.append(f"{model.model} did not run into it on these {model.pictures} pictures; others may.")
    if all(finding.precise == 0 for finding in wrong):
        said.append("In your own sessions set session.x64quantprecision to 1: results were exact with it.")
    if all(finding.uint8_weights == 0 for finding in wrong):
        said.append(
            "Or give weights as uint8, 128 higher with zero point 128 (or quantise to 7 bits, reduce_range)."
        )
    said.append(
        "topfive's targets do so by themselves, unless TOPFIVE_CPU_KERNELS or --cpu-kernels says native."
    )
    return said
