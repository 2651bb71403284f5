"""Networks of PyTorch's and Hugging Face's hubs as ONNX files, by the extra `topfive[export]`."""

from __future__ import annotations

from topfive.sources.export.exported import exported_path, unfetched_reason, verified
from topfive.sources.export.onnx_export import Exported, export

__all__ = ["Exported", "export", "exported_path", "unfetched_reason", "verified"]
