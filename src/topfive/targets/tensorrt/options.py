"""The options of target `tensorrt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from topfive.cache import file_sha256
from topfive.errors import OptionError
from topfive.targets.base import TargetOption
from topfive.targets.device_session import process_option
from topfive.targets.tensorrt.library import API, TRTEXEC

__all__ = ["AUTO", "CACHE", "OPTIONS", "QDQ", "plugin_libraries"]

AUTO, CACHE, QDQ = "auto", "cache", "qdq"
NUMBER, A_NUMBER = r"[1-9]\d{0,4}", "1 to 99999"
SECONDS = r"[1-9]\d{0,6}"


def _running(default: str, text: str, pattern: str, form: str) -> TargetOption:
    return TargetOption((), default, text, pattern, form, running=True)


OPTIONS: Mapping[str, TargetOption] = MappingProxyType(
    {
        "way": TargetOption((API, TRTEXEC), API, "TensorRT's Python API, or the tool trtexec"),
        "batch_size": TargetOption(
            ("1", "8", "32"), "1", "batch size that is optimised for and measured", NUMBER, A_NUMBER
        ),
        "max_batch": TargetOption((), "64", "largest batch size of the engine", NUMBER, A_NUMBER),
        "quantisation": TargetOption(
            (AUTO, CACHE, QDQ),
            AUTO,
            "int8 by calibration cache (TensorRT 10) or by Q/DQ in the model; auto: cache where it exists",
        ),
        "weights": TargetOption(
            ("per_axis", "per_tensor"), "per_axis", "scales of int8 weights with quantisation=qdq"
        ),
        "plugins": TargetOption(
            (), "", "libraries of plugins (default: none)", r"[^,]+:[0-9a-f]{64}(,.*)?", "PATH:SHA256[,...]"
        ),
        "workspace": TargetOption((), "0", "workspace in MiB, 0 for all (way=api)", r"\d{1,6}", "MiB"),
        "device": TargetOption(tuple(str(n) for n in range(8)), "0", "the GPU", running=True),
        "iterations": _running("10", "least batches of a measurement", r"[1-9]\d{0,7}", "NUMBER"),
        "time": _running("3", "least seconds of a measurement", r"\d{1,5}", "SECONDS"),
        "warm_up": _running("200", "milliseconds before a measurement", r"\d{1,6}", "MILLISECONDS"),
        "build_limit": _running("3600", "seconds that building may take", SECONDS, "SECONDS"),
        "run_limit": _running(
            "600", "seconds that opening, a batch or trtexec may take besides its time", SECONDS, "SECONDS"
        ),
        "process": process_option(),
        "work": _running("", "folder in which logs of trtexec stay (default: none stay)", r".+", "DIR"),
    }
)


def plugin_libraries(text: str) -> list[tuple[Path, str]]:
    """The libraries that option `plugins` names, with their SHA-256, checked.

    Raises OptionError for a file that is missing or is another one: it is other people's code, not loaded.
    """
    found = []
    for part in filter(None, text.split(",")):
        name, _, digest = part.rpartition(":")
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise OptionError(f"option plugins: {path} does not exist")
        if file_sha256(path) != digest:
            raise OptionError(
                f"option plugins: {path} is not the library that was meant: it was not loaded",
                details=f"sha256 of the file: {file_sha256(path)}\nsha256 in the option: {digest}",
            )
        found.append((path, digest))
    return found
