"""The options of target `mlu370`, under the names of MagicMind 0.13's samples and of those since 1.4.

Sources: gen_model.py and perf.sh of Cambricon/magicmind_cloud (buildin/cv/classification/resnet50_onnx), and
buildin/python_common/build_param.py of its later versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from topfive.targets.base import TargetOption
from topfive.targets.device_session import process_option

__all__ = ["ALIASES", "CLUSTERS", "OPTIONS", "translated"]

CLUSTERS = {"S4": 6, "X4": 8}
"""Card -> clusters of its processor, as the `archs` of the build configuration name them."""
NUMBER, A_NUMBER = r"[1-9]\d{0,3}", "1 to 9999"
BOTH = "S4,X4"
# Since 1.4 -> in 0.13: option, and what of its values is called otherwise.
ALIASES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "dynamic_shape": ("shape_mutable", {}),
    "cluster_num": ("archs", {"6": "S4", "8": "X4", "6,8": BOTH}),
    "batch": ("batch_size", {}),
}


def _running(default: str, text: str, pattern: str, form: str) -> TargetOption:
    return TargetOption((), default, text, pattern, form, running=True)


OPTIONS: Mapping[str, TargetOption] = MappingProxyType(
    {
        "shape_mutable": TargetOption(
            ("true", "false"), "true", "whether the batch size may vary inside dim_range (default true)"
        ),
        "dim_range_max": TargetOption((), "64", "largest batch size of a mutable model", NUMBER, A_NUMBER),
        "batch_size": TargetOption(
            ("1", "4", "8"), "1", "batch size that is built and measured", NUMBER, A_NUMBER
        ),
        "archs": TargetOption(
            (BOTH, *CLUSTERS), BOTH, "cards that the model is for: S4 has 6 clusters, X4 has 8"
        ),
        "weight_quant_granularity": TargetOption(
            ("per_tensor", "per_axis"),
            "per_tensor",
            "scales of int8 weights (default per_tensor, the sample's)",
        ),
        "calibration_algo": TargetOption(
            ("linear", "eqnm"), "linear", "how MagicMind chooses ranges (default linear)"
        ),
        "toolchain_path": TargetOption((), "", "cross_compile_toolchain_path (default: none)", r".+", "DIR"),
        "device_id": TargetOption(tuple(str(n) for n in range(8)), "0", "the device", running=True),
        "iterations": _running("1000", "inferences that mm_run measures", r"[1-9]\d{0,7}", "NUMBER"),
        "build_limit": _running("3600", "seconds that building may take", r"[1-9]\d{0,6}", "SECONDS"),
        "run_limit": _running(
            "600", "seconds that opening, a batch or mm_run may take", r"[1-9]\d{0,6}", "SECONDS"
        ),
        "process": process_option(),
        "work": _running("", "folder in which logs of mm_run stay (default: none stay)", r".+", "DIR"),
        "dynamic_shape": TargetOption(("true", "false"), "", "shape_mutable, as since 1.4"),
        "cluster_num": TargetOption(("6", "8", "6,8"), "", "archs, as since 1.4: 6 is S4, 8 is X4"),
        "batch": TargetOption((), "", "batch_size, as mm_run of 0.13 names it", NUMBER, A_NUMBER),
    }
)


def translated(chosen: Mapping[str, str]) -> dict[str, str]:
    """Options under one set of names: the artifact's key must not depend on which was used."""
    found = dict(chosen)
    for later, (earlier, values) in ALIASES.items():
        if later in found:
            value = found.pop(later)
            found.setdefault(earlier, values.get(value, value))
    return found
