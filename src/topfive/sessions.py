"""ONNX Runtime sessions whose integer arithmetic is the model's own.

ONNX Runtime's default kernels for uint8 x int8 add pairs of products in int16 with saturation on x86
processors without VNNI, so that the same file gives other numbers there. Whether this processor has the
hazard is measured once a process, on products as large as int8 allows; where it has, weights are shifted to
uint8, whose kernels are exact everywhere. `session.disable_quant_qdq` keeps the optimiser from fusing float
islands between DequantizeLinear and QuantizeLinear into other arithmetic.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "PROBE_CONVS",
    "custom_operators",
    "default_threads",
    "has_signed_activations",
    "log_level",
    "native_kernels_are_exact",
    "open_exact",
    "open_session",
    "probe_model",
    "saturating_kernels",
    "session_options",
    "shift_weights",
    "unshare_int8",
]

ERROR_ONLY = 3
SHIFT = 128
QLINEAR = ("QLinearConv", "QLinearMatMul")
# (name, input shape, weight shape, group): each reaches another kernel of ONNX Runtime.
PROBE_CONVS = (
    ("general", (1, 64, 9, 9), (32, 64, 3, 3), 1),
    ("pointwise", (1, 128, 8, 8), (48, 128, 1, 1), 1),
    ("one_pixel", (1, 256, 1, 1), (40, 256, 1, 1), 1),
    ("grouped", (1, 64, 8, 8), (64, 16, 3, 3), 4),
    ("depthwise", (1, 32, 8, 8), (32, 1, 3, 3), 32),
    ("first_layer", (1, 3, 16, 16), (16, 3, 7, 7), 1),
)


_log_level = ContextVar("topfive_log_level", default=ERROR_ONLY)
_libraries: ContextVar[tuple[Path, ...]] = ContextVar("topfive_libraries", default=())


@contextmanager
def custom_operators(libraries: Iterable[Path]) -> Iterator[None]:
    """Sessions opened inside know the operators of these libraries, which export `RegisterCustomOps`.

    They are code of other people that runs in this process: `topfive.sources.plugins` checks what is loaded.
    """
    token = _libraries.set(tuple(libraries))
    try:
        yield
    finally:
        _libraries.reset(token)


@contextmanager
def log_level(level: int) -> Iterator[None]:
    """Sessions opened inside log messages from this level up: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal.

    Without it only errors are logged.
    """
    token = _log_level.set(level)
    try:
        yield
    finally:
        _log_level.reset(token)


@cache
def default_threads() -> int:
    """Threads a session may use: TOPFIVE_THREADS, else the processors this process may run on."""
    given = os.environ.get("TOPFIVE_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def session_options(
    *,
    threads: int | None = None,
    precise: bool = False,
    fuse_qdq: bool = False,
    optimise: bool = True,
    profile: Path | None = None,
) -> ort.SessionOptions:
    """Options for one session.

    precise: ask ONNX Runtime to rewrite int8 weights where its kernels would saturate. fuse_qdq: let it fuse
    DequantizeLinear-op-QuantizeLinear into integer operators. optimise: False switches every pass off.
    profile: note when each node runs, in a file whose name starts with this path.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = _log_level.get()
    for library in _libraries.get():
        options.register_custom_ops_library(str(library))
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not fuse_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options


def open_session(model: bytes | str, **settings: Any) -> ort.InferenceSession:
    """A CPU session of a serialised model or a file, with `session_options(**settings)`."""
    return ort.InferenceSession(model, session_options(**settings), providers=["CPUExecutionProvider"])


def shift_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose int8 weights of QLinearConv and QLinearMatMul are uint8, 128 higher, zero point 128.

    Those of nodes whose activations are int8 stay: their kernel is exact, and has no uint8 weights.
    """
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    constants = {t.name: t for t in shifted.graph.initializer}
    zero = numpy_helper.from_array(np.array(SHIFT, np.uint8), "topfive.weight_zero_uint8")
    used = set()
    for node in shifted.graph.node:
        if node.op_type not in QLINEAR or _signed(node, constants):
            continue
        tensor = constants.get(node.input[3])
        zero_points = constants.get(node.input[5])
        int8 = tensor is not None and tensor.data_type == TensorProto.INT8
        if not int8 or tensor is None or zero_points is None or numpy_helper.to_array(zero_points).any():
            continue
        name = f"{tensor.name}.uint8"
        if name not in used:
            codes = (numpy_helper.to_array(tensor).astype(np.int16) + SHIFT).astype(np.uint8)
            constants[name] = numpy_helper.from_array(codes, name)
            used.add(name)
        node.input[3], node.input[5] = name, zero.name
    if used:
        read = {name for node in shifted.graph.node for name in node.input}
        constants[zero.name] = zero
        del shifted.graph.initializer[:]
        shifted.graph.initializer.extend(t for n, t in constants.items() if n in read)
    return shifted


def unshare_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no two operators read the same int8 constant.

    session.x64quantprecision writes each constant that it makes uint8 under a name made from the old one, and
    fails where a second operator reads that, as many zero points are read (ONNX Runtime 1.32.0).
    """
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    int8 = {t.name: t for t in apart.graph.initializer if t.data_type == TensorProto.INT8}
    readers: Counter[str] = Counter()
    for node in apart.graph.node:
        for place, name in enumerate(node.input):
            if name not in int8:
                continue
            readers[name] += 1
            if readers[name] > 1:
                copied = apart.graph.initializer.add()
                copied.CopyFrom(int8[name])
                copied.name = node.input[place] = f"{name}.topfive{readers[name]}"
    return apart


def _signed(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether the activations of a QLinear node are int8."""
    zero_point = constants.get(node.input[2])
    return zero_point is not None and zero_point.data_type == TensorProto.INT8


def has_signed_activations(model: onnx.ModelProto) -> bool:
    """Whether a QLinearConv or QLinearMatMul reads int8 activations.

    ONNX Runtime's session.x64quantprecision makes their weights uint8, for which it has no kernel then.
    """
    constants = {t.name: t for t in model.graph.initializer}
    return any(node.op_type in QLINEAR and _signed(node, constants) for node in model.graph.node)


def probe_model(
    group: int, weights: NDArray[np.int8], x_shape: tuple[int, ...], scale: float = 0.0
) -> onnx.ModelProto:
    """A QLinearConv of uint8 codes (zero point 128) and int8 weights, [M, C / group, KH, KW].

    scale: what sums are multiplied by to become codes; by default the largest sum becomes 100, so that a
    kernel that loses any of it gives another code.
    """
    constants = {
        "one": np.float32(1),
        "down": np.float32(scale or 100 / (127 * 128 * math.prod(weights.shape[1:]))),
        "zero": np.uint8(SHIFT),
        "w": weights,
        "w_zero": np.int8(0),
    }
    inputs = ["x", "one", "zero", "w", "down", "w_zero", "one", "zero"]
    node = helper.make_node("QLinearConv", inputs, ["y"], group=group)
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saturating_kernels() -> list[str]:
    """Names of the probes whose default uint8 x int8 kernel differs from exact arithmetic here."""
    wrong = []
    for name, x_shape, w_shape, group in PROBE_CONVS:
        x = np.full(x_shape, 255, np.uint8)
        weights = np.full(w_shape, 127, np.int8)
        # Alternate the sign by output channel: saturation must not cancel out.
        weights[1::2] = -128
        model = probe_model(group, weights, x_shape)
        native = open_session(model.SerializeToString(), threads=1).run(None, {"x": x})[0]
        exact = open_session(shift_weights(model).SerializeToString(), threads=1).run(None, {"x": x})[0]
        if not np.array_equal(native, exact):
            wrong.append(name)
    return wrong


@cache
def native_kernels_are_exact() -> bool:
    """Whether this processor's default uint8 x int8 kernels are exact (measured once a process)."""
    return not saturating_kernels()


def open_exact(
    model: onnx.ModelProto, *, threads: int | None = None, profile: Path | None = None
) -> ort.InferenceSession:
    """A session of a lowered model (uint8 activations, int8 weights) that is exact on this processor."""
    safe = model if native_kernels_are_exact() else shift_weights(model)
    return open_session(safe.SerializeToString(), threads=threads, profile=profile)
