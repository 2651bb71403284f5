"""The same rows as CSV, with the raw numbers."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from topfive.errors import TopfiveError
from topfive.report.columns import COLUMNS
from topfive.suite.environment import cpu_features, library_versions
from topfive.suite.results import Row

__all__ = ["write_csv"]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write a header and a line a row, whole or not at all. Times are seconds, accuracies fractions.

    Every line repeats the processor's features and the library versions, so that files can be concatenated.
    Raises TopfiveError when the file cannot be written.
    """
    versions = library_versions()
    header = [*(column.name for column in COLUMNS), "cpu_features", *(f"version_{name}" for name in versions)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row in rows:
                values = [column.value(row) for column in COLUMNS]
                cells = ["" if value is None else value for value in values]
                writer.writerow([*cells, " ".join(cpu_features()), *versions.values()])
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TopfiveError(f"--topfive-csv {path} cannot be written: {error.strerror or error}") from error
