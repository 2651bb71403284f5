"""How `cpu` opens each kind of model: one session a kind of kernels.

profile: see `topfive.sessions.session_options`.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort

from topfive.sessions import (
    has_signed_activations,
    native_kernels_are_exact,
    open_exact,
    open_session,
    shift_weights,
    unshare_int8,
)

__all__ = ["open_as_written", "open_float", "open_foreign", "open_lowered", "open_native"]


def _source(model: Path | onnx.ModelProto) -> bytes | str:
    return str(model) if isinstance(model, Path) else model.SerializeToString()


def _loaded(model: Path | onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load(model) if isinstance(model, Path) else model


def open_as_written(
    model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
) -> ort.InferenceSession:
    """Any model, node by node as its graph says: no optimiser."""
    return open_session(_source(model), threads=threads, optimise=False, profile=profile)


def open_float(
    model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
) -> ort.InferenceSession:
    """A float model."""
    return open_session(_source(model), threads=threads, profile=profile)


def open_lowered(
    model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
) -> ort.InferenceSession:
    """One of topfive's own lowered int8 models, exact."""
    return open_exact(_loaded(model), threads=threads, profile=profile)


def open_foreign(
    model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
) -> ort.InferenceSession:
    """Someone else's quantised model: fused to integer operators, rewritten only where kernels saturate.

    ONNX Runtime rewrites it, unless it would leave integer operators without a kernel: then topfive does.
    """
    if native_kernels_are_exact():
        return open_session(_source(model), threads=threads, fuse_qdq=True, profile=profile)
    loaded = _loaded(model)
    if has_signed_activations(loaded):
        source, precise = _source(shift_weights(loaded)), False
    else:
        source, precise = _source(unshare_int8(loaded)), True
    return open_session(source, threads=threads, fuse_qdq=True, precise=precise, profile=profile)


def open_native(
    model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
) -> ort.InferenceSession:
    """Any int8 model as ONNX Runtime runs it by default."""
    return open_session(_source(model), threads=threads, fuse_qdq=True, profile=profile)
