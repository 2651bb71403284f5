"""The plugin's options and markers."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from topfive import targets
from topfive.suite.settings import KINDS
from topfive.sweep.plan import BATCH
from topfive.targets.base import QUANT_MODES

__all__ = ["DESIGN_QUANTS", "DESIGN_TARGETS", "add_options", "marker_lines"]

DESIGN_TARGETS = (
    "cpu",
    "gemmini_sim",
    "gemmini_qemu",
    "gemmini_spike",
    "tensorrt",
    "mlu370",
    "aic100",
    "tensorrt_sim",
    "mlu370_sim",
    "aic100_sim",
)
DESIGN_QUANTS = (*QUANT_MODES, "int8_dw")
OTHER_MARKERS = {
    "slow": "takes long: big models, long measurements",
    "realdata": "needs real networks and photographs ($TOPFIVE_DATA)",
}


def marker_lines() -> list[str]:
    """A line for every marker, as `markers` of pytest.ini has them."""
    lines = [
        f"{name}: runs on the target {name}" for name in dict.fromkeys((*DESIGN_TARGETS, *targets.names()))
    ]
    lines += [f"{name}: quant mode {name}" for name in dict.fromkeys(DESIGN_QUANTS)]
    lines += [f"{name}: a {name} test, parametrised with models, targets and quant modes" for name in KINDS]
    return lines + [f"{name}: {what}" for name, what in OTHER_MARKERS.items()]


def add_options(parser: pytest.Parser) -> None:
    """Add every option of the plugin."""
    group = parser.getgroup("topfive", "topfive: models on accelerators")
    add = group.addoption
    add(
        "--models",
        type=_names,
        metavar="NAMES",
        help="models to run: names, globs or tag:NAME, comma-separated",
    )
    add("--targets", type=_names, metavar="NAMES", help="targets to run on, comma-separated")
    add("--quant", type=_names, metavar="MODES", help="quant modes to run, comma-separated")
    add(
        "--cards",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of model cards to add (repeatable; also TOPFIVE_CARDS)",
    )
    add(
        "--batch-sizes",
        type=_batches,
        metavar="SIZES",
        help="batch sizes instead of those of bench/suite.toml, comma-separated",
    )
    _add_accuracy_options(parser)
    _add_record_options(parser)
    add(
        "--update-golden",
        action="store_true",
        help="rewrite what changed in the goldens and print the difference",
    )
    add("--artifact-cache", type=Path, metavar="DIR", help="where artifacts are kept (also TOPFIVE_CACHE)")
    add("--threads", type=_positive, metavar="N", help="threads of a target (default: all processors)")
    add(
        "--trace-dir",
        type=Path,
        metavar="DIR",
        help="write a trace of each model, target and quant mode that runs: DIR/MODEL-TARGET-QUANT.json",
    )
    add("--topfive-csv", type=Path, metavar="FILE", help="write the table at the end as CSV")
    add(
        "--cpu-kernels",
        choices=("exact", "native"),
        help="int8 on cpu: the model's own arithmetic, or ONNX Runtime's default kernels (default: exact)",
    )


def _add_accuracy_options(parser: pytest.Parser) -> None:
    """The options of accuracy tests."""
    add = parser.getgroup("topfive accuracy", "topfive: accuracy over a picture set").addoption
    add("--imagenet", metavar="SET", help="labelled pictures: a folder, or a registered data set's name")
    add("--image-map", type=Path, metavar="FILE", help="their label file: lines 'name index'")
    add("--count", type=_positive, metavar="N", help="only the first N pictures")
    add("--shards", type=_positive, metavar="S", help="parts of the list, a test each (default: by its size)")
    add(
        "--sweep-batch",
        type=_positive,
        default=BATCH,
        metavar="N",
        help="pictures a run (default: %(default)s)",
    )
    add("--allow-missing", action="store_true", help="leave out pictures that are missing, and list them")
    add("--no-cache", action="store_true", help="decode pictures each time, keep no packed copy")
    add("--restart", action="store_true", help="forget the shards that an interrupted run has done")
    add(
        "--sweep-progress",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="least time between two lines of progress (default: %(default)s)",
    )


def _add_record_options(parser: pytest.Parser) -> None:
    """The options of records and comparisons."""
    add = parser.getgroup("topfive records", "topfive: records and comparing them").addoption
    add(
        "--records",
        type=Path,
        metavar="DIR",
        help="where records are kept (also TOPFIVE_RECORDS; default: .topfive/records of the project)",
    )
    add("--no-record", action="store_true", help="keep no record of this run")
    add("--topfive-tags", type=_names, metavar="TAGS", help="tags of the record (also TOPFIVE_TAGS)")
    add("--topfive-compare", metavar="REF", help="compare with a record: a file, an id, latest or latest~N")
    add("--topfive-gate", metavar="GATES", help="what may become worse, and how much, as p50:5%%,cycles:0")
    add("--topfive-markdown", type=Path, metavar="FILE", help="write the comparison as Markdown")
    add("--other-machine", action="store_true", help="compare times although another machine measured them")
    add("--other-model", action="store_true", help="compare although a model's file is another one")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("wants names separated by commas")
    return names


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _batches(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(item.strip()) for item in text.split(",")}))
