"""What makers of devices published of them, as rows to set measurements beside: `fixtures/published`.

A TOML file has `source`, `url` and `tool`, and tables `throughput` and `accuracy`: a device, columns, rows.
In place of rows, `table` names a CSV file in topfive's own folder, and `columns` says what its columns are: a
table that a target is configured from is not written twice. What all rows share stands beside or above.
"""

from __future__ import annotations

import csv
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from topfive.cards.places import fixtures_root
from topfive.errors import RecordError

__all__ = ["PublishedRow", "published_for", "published_rows", "read_published"]

ORIGIN = ("source", "url", "tool")
TEXTS = ("model", "target", "device", "quant", "objective")
NUMBERS = ("batch", "images")
FIGURES = ("images_per_s", "p95_ms", "top1", "top5")
# Rows with these alike are one row.
KEY = (*TEXTS, "batch")
VERSION = re.compile(r"-v\d.*")
WORDS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class PublishedRow:
    """Figures of one configuration. None of them was measured by topfive; None where the source does not say.

    source, url, tool: where they are from, and what measured them. target: of topfive; device: the product's
    name. batch: pictures an inference. images_per_s. p95_ms: 95th percentile of a batch's latency, in ms.
    top1, top5: of 1, over `images` pictures.
    """

    source: str
    url: str
    tool: str
    model: str
    target: str
    device: str
    quant: str
    batch: int
    objective: str = ""
    images_per_s: float | None = None
    p95_ms: float | None = None
    top1: float | None = None
    top5: float | None = None
    images: int | None = None


def published_rows(folder: Path | None = None, *, target: str = "", model: str = "") -> list[PublishedRow]:
    """All rows, of one target or model if named, in order of file and place.

    folder: of TOML files (default: `fixtures/published`). Raises RecordError naming file and row.
    """
    place = folder or fixtures_root() / "published"
    rows = [row for path in sorted(place.glob("*.toml")) for row in read_published(path)]
    return [row for row in rows if target in ("", row.target) and model in ("", row.model)]


def published_for(model: str, rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Rows of networks of the same name: without a version, the longest that is a part of the model's.

    So mlperf_resnet50_opset8 has those of resnet50-v1-7, and wide_resnet50_2 has only its own.
    """
    words = WORDS.split(model.lower())
    parts = {"".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)}
    names = {row.model: "".join(WORDS.split(VERSION.sub("", row.model.lower()))) for row in rows}
    longest = max((len(name) for name in names.values() if name in parts), default=0)
    return [row for row in rows if names[row.model] in parts and len(names[row.model]) == longest > 0]


def read_published(path: Path) -> list[PublishedRow]:
    """The rows of one file; those of one model, device, quant mode, objective and batch are joined.

    Raises RecordError naming file and row.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from None
    joined: dict[tuple[Any, ...], dict[str, Any]] = {}
    for kind in ("throughput", "accuracy"):
        tables = document.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise RecordError(f"{path}: '{kind}' must be tables [[{kind}]]")
        for table in tables:
            shared = {key: table.get(key, document.get(key, "")) for key in (*ORIGIN, *TEXTS)}
            images = document.get("images") if kind == "accuracy" else None
            for place, row in _rows(table, f"{path}, [[{kind}]] of {table.get('device')}"):
                values = {**shared, **({"images": images} if images is not None else {}), **row}
                _check(values, place)
                found = joined.setdefault(tuple(values[name] for name in KEY), {})
                again = [name for name in FIGURES if found.get(name) is not None and name in row]
                if again:
                    raise RecordError(f"{place}: {again[0]!r} was given before for the same configuration")
                found |= values
    return [PublishedRow(**values) for values in joined.values()]


def _rows(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table with their places."""
    if "table" in table:
        yield from _table_rows(table, where)
        return
    columns, rows = table.get("columns"), table.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise RecordError(f"{where}: 'columns' and 'rows' must be lists")
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        if not isinstance(row, list) or len(row) != len(columns):
            raise RecordError(f"{place}: must have {len(columns)} values: {', '.join(map(str, columns))}")
        yield place, dict(zip(map(str, columns), row, strict=True))


def _table_rows(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a CSV file that have a figure."""
    columns = table.get("columns")
    if not isinstance(columns, dict):
        raise RecordError(f"{where}: 'columns' must say which column of the table is what: batch = \"...\"")
    path = Path(str(files("topfive").joinpath(str(table["table"]))))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = set(columns.values()) - set(reader.fieldnames or ())
            if lacking:
                raise RecordError(f"{where}: {path} lacks the columns {', '.join(sorted(lacking))}")
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{where}: {path} cannot be read: {error}") from None
    for number, row in numbered:
        cells = {name: (row[column] or "").strip() for name, column in columns.items()}
        if any(cells.get(name) for name in FIGURES):
            place = f"{path}, line {number}"
            yield place, {name: _value(name, cell, place) for name, cell in cells.items()}


def _value(name: str, cell: str, place: str) -> str | int | float | None:
    kind = float if name in FIGURES else int if name in NUMBERS else str
    if not cell and kind is not str:
        return None
    try:
        return kind(cell)
    except ValueError:
        raise RecordError(f"{place}: {name!r} cannot be {cell!r}") from None


def _check(values: Mapping[str, Any], place: str) -> None:
    unknown = set(values) - {field.name for field in fields(PublishedRow)}
    if unknown:
        raise RecordError(f"{place}: unknown columns {', '.join(sorted(unknown))}")
    for key in (*ORIGIN, *TEXTS):
        if not isinstance(values[key], str) or (key != "objective" and not values[key]):
            raise RecordError(f"{place}: {key!r} must be text")
    batch, images = values.get("batch"), values.get("images", 1)
    for key, value in (("batch", batch), ("images", images)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecordError(f"{place}: {key!r} must be a whole number of 1 or more, not {value!r}")
    for key in FIGURES:
        value = values.get(key)
        allowed = value is None or (isinstance(value, float) and 0 < value < math.inf)
        if not allowed or (key in ("top1", "top5") and value is not None and value > 1):
            raise RecordError(f"{place}: {key!r} cannot be {value!r}")
