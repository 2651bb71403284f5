"""Is this ONNX file a classifier that topfive can run, and the one that its card describes?"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from topfive.cards import Card
from topfive.errors import CardError, FetchError
from topfive.sources.chosen_output import keep_output
from topfive.sources.onnx_file import graphs, load_weights, read_graph, readable, tensors
from topfive.sources.plugins import check_plugins, is_known

__all__ = ["Signature", "check_classifier", "signature"]

_INPUT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_INF_ALLOWED = frozenset(
    {
        "Clip",
        "ConstantOfShape",
        "Expand",
        "Max",
        "Min",
        "Pad",
        "PadV2",
        "ReduceMax",
        "Where",
        "Add",
        "Mul",
        "Cast",
    }
)
"""Operators that may be given infinity on purpose (bounds, masks): as a single number, not as weights."""
_CHANNELS = (3, 4)


@dataclass(frozen=True)
class Signature:
    """A classifier's one input and one output, by name, and what goes through them."""

    input: str
    output: str
    size: tuple[int, int]
    """Height and width of the input."""
    channels: int
    layout: str
    """"NCHW" or "NHWC"."""
    batch: int | None
    """None: any."""
    entries: int
    """Length of the output vector of one picture."""


def signature(model: onnx.ModelProto, path: Path) -> Signature:
    """The signature of a model read from `path`. Raises FetchError naming what is not as a classifier's."""
    given, made = _only_input(model, path), _only_output(model, path)
    batch, *picture = _input_shape(given, path)
    sizes = [size or 0 for size in picture]
    layout = "NCHW" if sizes[0] in _CHANNELS else "NHWC"
    channels, height, width = sizes if layout == "NCHW" else (sizes[2], sizes[0], sizes[1])
    return Signature(
        given.name, made.name, (height, width), channels, layout, batch, _entries(model, made, path)
    )


def check_classifier(path: Path, card: Card, *, plugins: str = "onnxruntime") -> onnx.ModelProto:
    """Read an ONNX file with its weights, and make sure that it can be run and that it fits its card.

    plugins: whose libraries the target loads, "onnxruntime", "tensorrt" or "". Raises FetchError for the
    file's faults: not ONNX, cut short, damaged, external data missing or outside the model's folder, several
    inputs or outputs, dimensions other than the batch not fixed, custom operators without a library, NaN or
    infinity in weights; and CardError for disagreements with the card: input size, classes, lines of the
    labels.
    """
    model = read_graph(path)
    with readable(path):
        if card.output.name:
            keep_output(model, card.output.name, path, card.path)
        _check_against_card(model, path, card)
        load_weights(model, path)
        check_plugins(model, path, card, plugins)
        _check_structure(model, path)
        _check_numbers(model, path)
    return model


def _check_against_card(model: onnx.ModelProto, path: Path, card: Card) -> None:
    found = signature(model, path)
    if found.size != card.input.size:
        raise CardError(
            f"{card.path}: key 'input.size' is {list(card.input.size)}, but input {found.input!r} of {path} "
            f"is {list(found.size)} (height, width): correct the card"
        )
    if found.entries != card.output.entries:
        raise CardError(_wrong_classes(card, found, path))
    card.labels()


def _wrong_classes(card: Card, found: Signature, path: Path) -> str:
    wanted = f"'output.classes' is {card.output.classes}"
    if card.output.background:
        wanted += " and 'output.background' is true"
    hint = "correct the card"
    if found.entries == card.output.classes + 1:
        hint = "set 'output.background = true' if index 0 is the background class"
    elif card.output.background and found.entries == card.output.classes:
        hint = "set 'output.background = false'"
    has = f"output {found.output!r} of {path} has {found.entries} entries"
    return f"{card.path}: key {wanted}, but {has}: {hint}"


def _only_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise FetchError(_not_one("input", [str(value.name) for value in inputs], path))
    return inputs[0]


def _only_output(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    outputs: list[onnx.ValueInfoProto] = list(model.graph.output)
    if len(outputs) != 1:
        raise FetchError(_not_one("output", [str(value.name) for value in outputs], path))
    return outputs[0]


def _not_one(kind: str, names: list[str], path: Path) -> str:
    listed = f" ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})" if names else ""
    return f"{path} has {len(names)} {kind}s{listed}, but a classifier has one: " + (
        "name it as 'output.name' on the card"
        if kind == "output" and names
        else "cut the graph with onnx.utils.extract_model"
    )


def _dims(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """Dimensions, None for one that is not fixed; None if not even their number is known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]


def _shown(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    # str(): protobuf gives bytes for a name that is not UTF-8
    return f"[{', '.join(str(dim.dim_value if dim.dim_value > 0 else dim.dim_param or '?') for dim in dims)}]"


def _input_shape(value: onnx.ValueInfoProto, path: Path) -> list[int | None]:
    kind = value.type.tensor_type.elem_type
    if kind not in _INPUT_TYPES:
        name = _type_name(kind)
        raise FetchError(
            f"{path}: input {value.name!r} is {name}: topfive feeds float32, float16, int8 or uint8"
        )
    shape = _dims(value)
    if shape is None or len(shape) != 4:
        raise FetchError(
            f"{path}: input {value.name!r} is {_shown(value)}, but pictures are [batch, 3, height, width]"
        )
    if None in shape[1:]:
        raise FetchError(
            f"{path}: input {value.name!r} is {_shown(value)}: only the batch, its first dimension, may be "
            "dynamic. Export with a fixed size, or fix it with onnxruntime.tools.make_dynamic_shape_fixed"
        )
    if shape[1] not in _CHANNELS and shape[3] not in _CHANNELS:
        raise FetchError(f"{path}: input {value.name!r} is {_shown(value)}: no dimension is the 3 colours")
    return shape


def _type_name(kind: int) -> str:
    names: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}
    return names.get(kind, f"of unknown type {kind}")


def _entries(model: onnx.ModelProto, value: onnx.ValueInfoProto, path: Path) -> int:
    """Length of the output vector of one picture; shapes are inferred only if the file does not say."""
    kind = value.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        name = _type_name(kind)
        raise FetchError(
            f"{path}: output {value.name!r} is {name}: topfive compares float32 or float16 scores"
        )
    shape = _dims(value)
    if shape is None or None in shape[1:]:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except (ValueError, onnx.shape_inference.InferenceError) as error:
            raise FetchError(f"{path}: shapes cannot be inferred: {error}") from error
        value = inferred.graph.output[0]
        shape = _dims(value)
    if shape is None or len(shape) < 2 or None in shape[1:]:
        raise FetchError(
            f"{path}: output {value.name!r} is {_shown(value)}, but scores are [batch, classes]: "
            "only the batch may be dynamic. Export with fixed shapes"
        )
    sizes = [int(size or 0) for size in shape[1:]]
    if sum(size > 1 for size in sizes) > 1:
        raise FetchError(f"{path}: output {value.name!r} is {_shown(value)}, but scores are [batch, classes]")
    return math.prod(sizes)


def _check_structure(model: onnx.ModelProto, path: Path) -> None:
    """onnx.checker on the graph alone: the weights, which it would copy twice, are declared as inputs."""
    bare = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    graph = bare.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.output[0].type.tensor_type.shape.SetInParent()  # known by now, declared in the file or not
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in declared:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
    _set_plugins_apart(bare)
    try:
        onnx.checker.check_model(bare)
    except onnx.checker.ValidationError as error:
        first, _, rest = str(error).partition("\n")
        raise FetchError(f"{path} is not valid ONNX: {first}", details=rest.strip()) from error


def _set_plugins_apart(model: onnx.ModelProto) -> None:
    """Move unknown operators of ONNX's own domain to another one, which the checker leaves alone."""
    for node in model.graph.node:
        if not node.domain and not is_known(model, node):
            node.domain = "topfive.plugins"
            if all(opset.domain != node.domain for opset in model.opset_import):
                model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))


def _check_numbers(model: onnx.ModelProto, path: Path) -> None:
    """Every constant has the bytes its shape wants; floating-point ones are finite.

    Single infinities that bound or mask something are left alone.
    """
    users: dict[str, set[str]] = defaultdict(set)
    for graph in graphs(model.graph):
        for node in graph.node:
            for name in node.input:
                users[name].add(node.op_type)
    for name, tensor in tensors(model):
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:  # size, no element type, unknown element type
            raise FetchError(f"{path}: {name} is damaged: {error}. Fetch or export it again") from error
        if tensor.data_type not in _FLOAT_TYPES:
            continue
        finite = np.isfinite(values)
        if finite.all():
            continue
        nan = int(np.isnan(values).sum())
        if not nan and values.size == 1 and users[tensor.name] <= _INF_ALLOWED:
            continue
        first = [int(index) for index in np.argwhere(~finite)[0]]
        what = "NaN" if np.isnan(values[tuple(first)]) else "infinity"
        raise FetchError(
            f"{path}: {name} holds {int((~finite).sum())} NaN or infinite values of {values.size}, "
            f"the first ({what}) at index {first}: export the model again"
        )
