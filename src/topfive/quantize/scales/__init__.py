"""Scale tables: reading, writing, comparing and converting what other tools calibrated."""

from __future__ import annotations

from topfive.quantize.scales.compare import Difference, compare_tables
from topfive.quantize.scales.files import read_table, write_table
from topfive.quantize.scales.tensorrt_cache import parse_cache, scale_of, write_cache

__all__ = [
    "Difference",
    "compare_tables",
    "parse_cache",
    "read_table",
    "scale_of",
    "write_cache",
    "write_table",
]
