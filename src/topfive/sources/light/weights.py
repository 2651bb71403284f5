"""Weights that are the same bits on every machine: PCG64 integers, and correctly rounded IEEE operations.

No normal(), no libm: the only floating-point operations are one division, one square root and one product,
which IEEE 754 defines to the last bit. Statistics of the batch normalisations come from a committed table.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from topfive.sources.light.graph import Skeleton, Weight

__all__ = ["blocks", "write_model"]

BLOCK = 1 << 20  # elements made at a time: a kernel of VGG-19 has 103 million

Table = Mapping[str, Any]
"""One architecture's statistics: {"mean": {node: number}, "variance": ..., "gain": number, "offset": [...]}.

`gain` multiplies the kernel of the last layer and `offset` is its bias: untrained networks answer nearly the
same to every picture; without the offset the logits would show that common answer instead of the picture.
"""


def blocks(weight: Weight, seed: int, table: Table, classifier: str) -> Iterator[np.ndarray]:
    """The values of one weight, flat float32 [n] in blocks of at most BLOCK.

    Kernels: uniform in +-sqrt(6 / fan_in) (He et al. 2015, arXiv:1502.01852), times `gain` in the classifier.
    Biases and shifts 0 but for the classifier's `offset`, scales 1, means and variances one number a layer.
    """
    if weight.role == "kernel":
        limit = math.sqrt(6.0 / weight.fan_in) * (float(table["gain"]) if weight.node == classifier else 1.0)
        yield from _uniform(f"{seed}/{weight.name}", weight.count, np.float32(limit))
        return
    if weight.role == "bias" and weight.node == classifier:
        yield np.asarray(table["offset"], np.float32)
        return
    constant = {"bias": 0.0, "shift": 0.0, "scale": 1.0}.get(weight.role)
    value = table[weight.role][weight.node] if constant is None else constant
    for start in range(0, weight.count, BLOCK):
        yield np.full(min(BLOCK, weight.count - start), value, np.float32)


def _uniform(key: str, count: int, limit: np.float32) -> Iterator[np.ndarray]:
    """`count` float32 values in (-limit, limit), each an odd multiple of limit / 2**24."""
    generator = np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest(), "little"))
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        words = generator.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]
        odd = (words >> np.uint32(8)).astype(np.int32) * 2 + (1 - (1 << 24))
        yield odd.astype(np.float32) * np.float32(2.0**-24) * limit


def write_model(frame: Skeleton, seed: int, table: Table, out: Path) -> None:
    """Write the ONNX file with its weights, without ever holding more than one block of them.

    The protobuf is written by hand for this: the graph's other fields, then one `initializer` a weight.
    """
    model = onnx.ModelProto()
    model.CopyFrom(frame.model)
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    model.ClearField("graph")
    names = {weight.name for weight in frame.weights}
    kept = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(kept)
    heads = [_tensor_head(weight) for weight in frame.weights]
    start = graph.SerializeToString()
    sizes = [len(head) + 4 * weight.count for head, weight in zip(heads, frame.weights, strict=True)]
    records = [_field(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, size) for size in sizes]
    with out.open("wb") as file:
        file.write(model.SerializeToString())
        total = len(start) + sum(sizes) + sum(map(len, records))
        file.write(_field(onnx.ModelProto.GRAPH_FIELD_NUMBER, total) + start)
        for weight, head, record in zip(frame.weights, heads, records, strict=True):
            file.write(record + head)
            for block in blocks(weight, seed, table, frame.classifier):
                file.write(block.astype("<f4", copy=False).tobytes())


def _tensor_head(weight: Weight) -> bytes:
    """A TensorProto up to where the bytes of raw_data begin."""
    tensor = onnx.TensorProto(name=weight.name, dims=weight.dims, data_type=onnx.TensorProto.FLOAT)
    start: bytes = tensor.SerializeToString()
    return start + _field(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, 4 * weight.count)


def _field(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited field (protobuf encoding: wire type 2, varints)."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
