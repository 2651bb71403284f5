"""What vendors published of their devices, as rows to set measurements beside (`fixtures/published`)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from topfive.cards.places import fixtures_root
from topfive.errors import RecordError

__all__ = ["PublishedRow", "published_rows"]

TEXTS = ("model", "target", "device", "quant", "objective")
NUMBERS = ("images_per_s", "p95_ms", "top1", "top5")


@dataclass(frozen=True)
class PublishedRow:
    """One published figure. source: where it is from. target: of topfive; device: the product's name.

    batch: pictures an inference. images_per_s. p95_ms: 95th percentile of a batch's latency. top1, top5: of
    1, over `images` pictures. None where the source does not say.
    """

    source: str
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
    rows = [row for path in sorted(place.glob("*.toml")) for row in _file_rows(path)]
    return [row for row in rows if target in ("", row.target) and model in ("", row.model)]


def _file_rows(path: Path) -> Iterator[PublishedRow]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from None
    for kind in ("throughput", "accuracy"):
        tables = document.get(kind, [])
        for table in tables:
            columns, values = table.get("columns"), table.get("rows")
            if not isinstance(columns, list) or not isinstance(values, list):
                raise RecordError(f"{path}, [[{kind}]]: 'columns' and 'rows' must be lists")
            shared = {key: table.get(key, document.get(key, "")) for key in ("source", *TEXTS)}
            images = document.get("images") if kind == "accuracy" else None
            for number, row in enumerate(values, start=1):
                where = f"{path}, [[{kind}]] of {table.get('device')}, row {number}"
                if not isinstance(row, list) or len(row) != len(columns):
                    raise RecordError(
                        f"{where}: must have {len(columns)} values: {', '.join(map(str, columns))}"
                    )
                yield _row({**shared, "images": images, **dict(zip(columns, row, strict=True))}, where)


def _row(values: Mapping[str, Any], where: str) -> PublishedRow:
    unknown = set(values) - {field.name for field in fields(PublishedRow)}
    if unknown:
        raise RecordError(f"{where}: unknown columns {', '.join(sorted(unknown))}")
    for key in ("source", *TEXTS):
        if not isinstance(values[key], str) or (key != "objective" and not values[key]):
            raise RecordError(f"{where}: {key!r} must be text")
    batch = values.get("batch")
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise RecordError(f"{where}: 'batch' must be a whole number of 1 or more, not {batch!r}")
    for key in NUMBERS:
        value = values.get(key)
        allowed = value is None or (isinstance(value, float) and 0 < value < math.inf)
        if not allowed or (key in ("top1", "top5") and value is not None and value > 1):
            raise RecordError(f"{where}: {key!r} cannot be {value!r}")
    return PublishedRow(**values)
