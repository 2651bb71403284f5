"""What MagicMind is told about a model: the JSON strings that BuilderConfig.parse_from_string is given.

The strings and their order are those of gen_model.py (Cambricon/magicmind_cloud,
buildin/cv/classification/resnet50_onnx, MagicMind 0.13); later versions take them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from topfive.targets.mlu370.options import CLUSTERS

__all__ = ["PRECISIONS", "QUANTISED", "batch_refusal", "build_configuration"]

PRECISIONS = ("force_float32", "force_float16", "qint8_mixed_float16")
"""Precision modes, as MagicMind names them: topfive's quant modes have the same names."""
QUANTISED = "qint8_mixed_float16"


def batch_refusal(batch: int, setting: Mapping[str, str]) -> str:
    """Why a batch size is impossible with these options, or ""."""
    most = int(setting["dim_range_max"])
    if setting["shape_mutable"] == "true" and not 1 <= batch <= most:
        return f"batch size {batch} is outside dim_range 1 to {most}: choose --option dim_range_max={batch}"
    return ""


def build_configuration(quant: str, setting: Mapping[str, str], shape: Sequence[int]) -> list[str]:
    """The JSON strings, in the sample's order.

    quant: one of PRECISIONS. setting: the target's options. shape: channels, height and width of the input.
    """
    clusters = [CLUSTERS[card] for card in setting["archs"].split(",")]
    steps: list[dict[str, Any]] = [
        {"archs": [{"mtp_372": clusters}]},
        {"opt_config": {"type64to32_conversion": True}},
        {"opt_config": {"conv_scale_fold": True}},
    ]
    if setting["toolchain_path"]:
        steps.append({"cross_compile_toolchain_path": setting["toolchain_path"]})
    steps.append({"convert_input_layout": {"0": {"src": "NCHW", "dst": "NHWC"}}})
    mutable = setting["shape_mutable"] == "true"
    steps.append({"graph_shape_mutable": mutable})
    if mutable:
        # In the model's own order of axes, whatever the input's layout becomes.
        ends = {"min": [1, *shape], "max": [int(setting["dim_range_max"]), *shape]}
        steps.append({"dim_range": {"0": ends}})
    steps += [
        {"precision_config": {"precision_mode": quant}},
        {"precision_config": {"activation_quant_algo": "symmetric"}},
        {"precision_config": {"weight_quant_granularity": setting["weight_quant_granularity"]}},
    ]
    return [json.dumps(step) for step in steps]
