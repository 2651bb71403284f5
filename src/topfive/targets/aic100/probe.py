"""Whether `aic100` can run here: its tools, its device, ONNX Runtime's provider. Nothing here raises."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from topfive.errors import RunError
from topfive.targets.aic100.options import PROVIDER
from topfive.targets.aic100.toolchain import find_tools, privileged, query_device
from topfive.targets.tools import is_emulated

if TYPE_CHECKING:
    from topfive.targets.aic100.target import Aic100Target

__all__ = ["PROVIDER_NAME", "missing", "provider_emulated", "provider_missing"]

PROVIDER_NAME = "QAicExecutionProvider"


def missing(target: Aic100Target) -> str:
    """What is missing, or ""."""
    tools = find_tools()
    if target.setting("runtime") == PROVIDER:
        return provider_missing()
    if reason := tools.missing("compiler", "runner", "utility"):
        return reason
    return _device(
        str(tools.utility), tuple(privileged(target.setting("sudo"))), int(target.setting("device"))
    )


@cache
def _device(utility: str, prefix: tuple[str, ...], device: int) -> str:
    """Why there is no such device, or "". Asked once: what is busy or hot now may not be later."""
    try:
        with tempfile.TemporaryDirectory(prefix="topfive-aic100-") as folder:
            query_device(utility, prefix, device, Path(folder))
    except RunError as error:
        said = [
            line for line in error.details.splitlines() if line and not line.startswith(("$ ", "kept in"))
        ]
        return "; ".join([f"no device: {error.message}", *said[:2]])
    except OSError as error:
        return f"no temporary folder: {error}"
    return ""


def provider_emulated() -> bool:
    """Whether ONNX Runtime says that its QAic provider is emulated."""
    import onnxruntime

    return is_emulated((onnxruntime.__doc__ or "").strip())


def provider_missing() -> str:
    """Why ONNX Runtime cannot run models on an AI 100, or ""."""
    import onnxruntime

    if PROVIDER_NAME in onnxruntime.get_available_providers():
        return ""
    return (
        f"this onnxruntime {onnxruntime.__version__} has no {PROVIDER_NAME}: build it with "
        "/opt/qti-aic/integrations/qaic_onnxrt/build_onnxrt_qaic.sh"
    )
