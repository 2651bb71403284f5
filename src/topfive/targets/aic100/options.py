"""The options of target `aic100`: those of run_cv_classifier.py, and what its fixed values were."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from topfive.targets.aic100.configuration import NONE, OBJECTIVES
from topfive.targets.base import TargetOption
from topfive.targets.device_session import process_option

__all__ = ["OPTIONS", "PROVIDER", "TOOLS"]

FOURTEEN = tuple(str(number) for number in range(1, 15))
NUMBER, A_NUMBER = r"[1-9]\d{0,6}", "a whole number of 1 or more"
TOOLS, PROVIDER = "tools", "onnxruntime"


def _tuning(help_text: str, values: tuple[str, ...] = (), pattern: str = "", form: str = "") -> TargetOption:
    """An option that the table, or else the objective, decides when nothing is chosen."""
    return TargetOption(
        values, "", f"{help_text} (default: the table's, else the objective's)", pattern, form
    )


def _running(
    default: str, help_text: str, values: tuple[str, ...] = (), pattern: str = "", form: str = ""
) -> TargetOption:
    said = f"{help_text} (default: {default})" if default else help_text
    return TargetOption(values, default, said, pattern, form, running=True)


OPTIONS: Mapping[str, TargetOption] = MappingProxyType(
    {
        "objective": TargetOption(
            OBJECTIVES, OBJECTIVES[0], f"what the configuration is chosen for (default: {OBJECTIVES[0]})"
        ),
        "batch-size": _tuning("pictures an inference", (), NUMBER, A_NUMBER),
        "image-size": TargetOption(
            (), "", "height and width: must be the model's (default: the model's)", NUMBER, A_NUMBER
        ),
        "cores": _tuning("NSPs of an instance", FOURTEEN),
        "instances": _tuning("instances of the model at once", FOURTEEN),
        "ols": _tuning("overlap split factor", FOURTEEN),
        "mos": _tuning("maximum output channel split", (NONE,), rf"{NUMBER}(,{NUMBER})*", "N[,N...]"),
        "set-size": _tuning("inferences waiting for each instance", FOURTEEN[:10]),
        "extra": _tuning("more flags of the compiler", (NONE,), r"\s*-(.|\s)*", "FLAGS"),
        "opset": TargetOption((), "", "ONNX opset to convert to (default: as built)", r"[1-9]\d?", "N"),
        "lut": TargetOption((), "", "a table lut_cv_classifiers.csv (default: ours)", r".+", "FILE"),
        "runtime": TargetOption(
            (TOOLS, PROVIDER), TOOLS, f"qaic-runner, or ONNX Runtime's QAic provider (default: {TOOLS})"
        ),
        "time": _running("20", "seconds of a measurement", (), r"[1-9]\d{0,4}", "1 to 99999"),
        "device": _running("0", "device (QID)", tuple(str(number) for number in range(8))),
        "run-only": _running("no", "never compile: what is not compiled yet is an error", ("no", "yes")),
        "input": _running("json", "--aic-batch-json-input, or the older -i", ("json", "file")),
        "sudo": _running(
            "auto",
            "what runs the tools as root; auto: sudo, unless this is root",
            ("auto", "no"),
            r"[\w./-]+( [\w./=-]+)*",
            "COMMAND",
        ),
        "max-wait": _running("300", "seconds to wait for a free, cool device", (), r"\d{1,6}", "SECONDS"),
        "compile-limit": _running("3600", "seconds that compiling may take", (), r"[1-9]\d{0,6}", "SECONDS"),
        "run-limit": _running(
            "120", "seconds a run may take besides its time", (), r"[1-9]\d{0,6}", "SECONDS"
        ),
        "process": process_option("run-limit"),
        "tolerance": _running(
            "0.02",
            "largest difference from float32, as a part of the largest output",
            (),
            r"\d*\.?\d+(e-\d+)?",
            "FRACTION",
        ),
        "work": _running("", "folder in which a measurement's working directory stays", (), r".+", "DIR"),
    }
)
