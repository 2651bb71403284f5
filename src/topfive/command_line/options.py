"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["CacheFolder", "Cards", "Json", "Model", "ModelArgument", "Quant", "Target"]

Model = Annotated[str, typer.Option("--model", "-m", help="A model card's name, or an ONNX file.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model card's name, or an ONNX file.")]
Target = Annotated[str, typer.Option("--target", help="Where it runs: see `topfive targets`.")]
Quant = Annotated[
    str, typer.Option("--quant", help="Quant mode: force_float32, force_float16, int8 or as_is.")
]
Cards = Annotated[
    list[Path] | None, typer.Option("--cards", help="A folder of model cards to add (repeatable).")
]
CacheFolder = Annotated[Path | None, typer.Option("--artifact-cache", help="Where artifacts are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
