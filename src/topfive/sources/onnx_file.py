"""Reading an ONNX file that may be anything: damaged, cut short, weights elsewhere, or no ONNX at all."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from topfive.errors import FetchError

__all__ = ["graphs", "load_weights", "read_graph", "readable", "tensors"]

_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?): export the model to ONNX"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"\x89HDF", "an HDF5 file (Keras?): export the model to ONNX"),
    (b"<", "a web page or XML"),
    (b"{", "JSON"),
)
_FIELDS = {  # number -> wire type of ModelProto's fields
    1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2,
}  # fmt: skip


def read_graph(path: Path) -> onnx.ModelProto:
    """The model without its external data. Raises FetchError: absent, empty, not ONNX, cut short, damaged."""
    try:
        if path.stat().st_size == 0:
            raise FetchError(f"{path} is empty: fetch or export it again")
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise FetchError(_why_undecodable(path)) from error
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror or error}") from error
    if not model.ir_version or not model.graph.node:
        raise FetchError(f"{path} is not an ONNX model: {_looks_like(path)}")
    if not model.opset_import:
        raise FetchError(f"{path} is cut short: it names no opset. Fetch or export it again")
    return model


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the decoding error of a damaged name, which any touch of the model may raise, into FetchError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FetchError(f"{path} is damaged: a name in it is not UTF-8. Fetch or export it again") from error


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    return next((f"it is {what}" for magic, what in _MAGIC if start.startswith(magic)), "it holds no graph")


def _why_undecodable(path: Path) -> str:
    """Walk the outermost protobuf fields: a length beyond the end of the file means that it is cut short."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = 0
        while position < len(data):
            tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            if _FIELDS.get(number) != wire:
                looks = _looks_like(path).replace("it holds no graph", "its bytes are no ONNX protobuf")
                return f"{path} is not an ONNX model: {looks}"
            value, position = _varint(data, position)
            position += value if wire == 2 else 0
        if position > len(data):
            return (
                f"{path} is cut short: it has {len(data)} bytes, its contents need at least {position}. "
                "Fetch or export it again"
            )
    return f"{path} is damaged: its ONNX protobuf cannot be decoded. Fetch or export it again"


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """A protobuf varint and where it ends; one that runs off the end ends beyond it."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return value, position
    return value, position + 1


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its nodes (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs(inner)


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every constant of the model and a name for it: initialisers, and the tensors in nodes' attributes."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            yield f"tensor {tensor.name!r}", tensor
        for node in graph.node:
            for attribute in node.attribute:
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.data_type:
                        yield f"constant of node {node.name or node.output[0]!r}", tensor


def load_weights(model: onnx.ModelProto, path: Path) -> None:
    """Read external data into the model in place.

    Every file is checked before any is opened: it must exist inside the model's folder, also after links are
    followed, and be long enough. Raises FetchError naming the tensor and the file.
    """
    external = False
    for name, tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(name, tensor, path)
            external = True
    if not external:
        return
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise FetchError(f"external data of {path} cannot be read: {error}") from error


def _check_external(name: str, tensor: onnx.TensorProto, path: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location or "\x00" in location:
        raise FetchError(
            f"{path}: {name} is said to lie in another file, but names none: export the model again"
        )
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not file.is_relative_to(folder) or Path(location).is_absolute():
        raise FetchError(
            f"{path}: {name} wants its data from {location!r}, outside the model's folder: refused. "
            "Export the model again with its data beside it"
        )
    if not file.is_file():
        raise FetchError(
            f"{path}: {name} wants its data from {location!r}, which is missing: put it beside the model"
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0:
        raise FetchError(f"{path}: {name} has a damaged place in {location!r}: export the model again")
    size = file.stat().st_size
    if offset + length > size:
        raise FetchError(
            f"{path}: {name} wants bytes {offset} to {offset + length} of {location!r}, which has {size}: "
            "the file is cut short. Fetch it again"
        )
