"""Goldens: the committed top-5 of one model, target and quant mode on the fixture pictures.

`golden/<model>/<target>-<quant>.json` is written by `update`, read by `read_golden`, and judged by `compare`.
"""

from __future__ import annotations

from topfive.golden.comparison import Comparison, GoldenMismatchError, ImageVerdict, compare, compare_image
from topfive.golden.files import golden_path, read_golden, write_golden
from topfive.golden.observation import (
    Observed,
    PictureSet,
    Shown,
    evidence,
    fixture_top1,
    observe,
    output_labels,
)
from topfive.golden.records import Golden, GoldenImage, Tolerance
from topfive.golden.updating import Update, make_golden, refuse_under_ci, update

__all__ = [
    "Comparison",
    "Golden",
    "GoldenImage",
    "GoldenMismatchError",
    "ImageVerdict",
    "Observed",
    "PictureSet",
    "Shown",
    "Tolerance",
    "Update",
    "compare",
    "compare_image",
    "evidence",
    "fixture_top1",
    "golden_path",
    "make_golden",
    "observe",
    "output_labels",
    "read_golden",
    "refuse_under_ci",
    "update",
    "write_golden",
]
