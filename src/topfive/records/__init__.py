"""Stored results, each with everything needed to compare or repeat it."""

from __future__ import annotations

from topfive.records.envelope import new_record, read_record
from topfive.records.library import Found, find_record, list_records
from topfive.records.store import previous_sweep, read_sweep, records_folder, write_record, write_sweep
from topfive.records.sweep_record import SweepRecord

__all__ = [
    "Found",
    "SweepRecord",
    "find_record",
    "list_records",
    "new_record",
    "previous_sweep",
    "read_record",
    "read_sweep",
    "records_folder",
    "write_record",
    "write_sweep",
]
