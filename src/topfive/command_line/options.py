"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from topfive.errors import OptionError

__all__ = [
    "CacheFolder",
    "Cards",
    "Json",
    "Model",
    "ModelArgument",
    "ModelTags",
    "NoRecord",
    "Quant",
    "Records",
    "RemoveSoftmax",
    "Select",
    "Tags",
    "Target",
    "TargetOptions",
    "split_tags",
    "target_options",
]

Model = Annotated[str, typer.Option("--model", "-m", help="A model card's name, or an ONNX file.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model card's name, or an ONNX file.")]
Target = Annotated[str, typer.Option("--target", help="Where it runs: see `topfive targets`.")]
Quant = Annotated[str, typer.Option("--quant", help="Quant mode of the target: see `topfive targets`.")]
TargetOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE, an option of the target (repeatable): see `topfive targets`."),
]
RemoveSoftmax = Annotated[
    bool, typer.Option("--remove-softmax", help="Leave out the softmax that makes the output.")
]
Select = Annotated[
    str, typer.Option("--select", help="argmax, or topK: give the best classes' indices, not scores.")
]
Cards = Annotated[
    list[Path] | None, typer.Option("--cards", help="A folder of model cards to add (repeatable).")
]
CacheFolder = Annotated[Path | None, typer.Option("--artifact-cache", help="Where artifacts are kept.")]
Records = Annotated[
    Path | None,
    typer.Option("--records", help="Where records are (default: .topfive/records of the project)."),
]
NoRecord = Annotated[bool, typer.Option("--no-record", help="Keep no record of this run.")]
Tags = Annotated[
    str | None, typer.Option("--tags", help="Of the record, comma-separated (also TOPFIVE_TAGS).")
]
ModelTags = Annotated[
    list[str] | None,
    typer.Option("--tags", help="Only models with all of these tags, comma-separated (repeatable)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def split_tags(given: Sequence[str] | None) -> list[str]:
    """The tags of every `--tags A,B`, without spaces around them."""
    return [tag.strip() for text in given or () for tag in text.split(",") if tag.strip()]


def target_options(given: Sequence[str] | None) -> dict[str, str]:
    """The options of `--option NAME=VALUE`; OptionError for another form, or one name with two values."""
    found: dict[str, str] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise OptionError(f"--option {text!r} is not NAME=VALUE")
        if found.setdefault(name, value) != value:
            raise OptionError(f"--option {name} is given as {found[name]!r} and as {value!r}: give it once")
    return found
