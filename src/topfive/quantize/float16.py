"""force_float16: all tensors and operators in float16, by onnxruntime's converter; float32 in and out."""

from __future__ import annotations

import warnings

import onnx

from topfive.graph import KNOWN_DOMAINS

__all__ = ["quantize_float16"]


def quantize_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16. Weights beyond the float16 range are clipped to it (largest 65504).

    Custom operators stay in float32, between casts: nobody knows whether they have a float16 form.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    custom = sorted({node.op_type for node in model.graph.node if node.domain not in KNOWN_DOMAINS})
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        # The converter warns of every weight below the smallest float16, which rounds to zero as it should.
        warnings.simplefilter("ignore")
        converted: onnx.ModelProto = convert_float_to_float16(
            copy,
            keep_io_types=True,
            max_finite_val=65504.0,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *custom],
        )
    return converted
