"""Figures that makers of devices published: the TOML files of fixtures/published."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topfive.cards.schema import read_toml
from topfive.errors import CardError

__all__ = ["PublishedRow", "published_for", "read_published"]

VERSION = re.compile(r"-v\d.*")
WORDS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class PublishedRow:
    """One figure. top1, top5: fractions. p95_ms: milliseconds of a batch. Not measured by topfive."""

    model: str
    device: str
    target: str
    quant: str
    batch: int
    objective: str
    images_per_s: float | None
    p95_ms: float | None
    top1: float | None
    top5: float | None
    source: str
    url: str
    tool: str


def read_published(folder: Path) -> tuple[PublishedRow, ...]:
    """The rows of every file, in order; () where there is no folder. Raises CardError naming the file.

    A file has source, url, tool, and tables `throughput` and `accuracy` of a device, columns and rows. What
    all rows share (model, target) stands at the top. Rows of one device, quant mode and batch are joined.
    """
    return tuple(row for path in sorted(folder.glob("*.toml")) for row in _rows(path))


def _rows(path: Path) -> Iterator[PublishedRow]:
    stored = read_toml(path)
    joined: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        for table in (*stored.get("throughput", ()), *stored.get("accuracy", ())):
            for cells in table["rows"]:
                row = {**_shared(stored), "device": table["device"]}
                row |= dict(zip(table["columns"], cells, strict=True))
                key = tuple(row.get(name) for name in ("model", "device", "objective", "quant", "batch"))
                joined.setdefault(key, {}).update(row)
        for row in joined.values():
            yield PublishedRow(
                model=str(row["model"]),
                device=str(row["device"]),
                target=str(row["target"]),
                quant=str(row["quant"]),
                batch=int(row["batch"]),
                objective=str(row.get("objective", "")),
                images_per_s=row.get("images_per_s"),
                p95_ms=row.get("p95_ms"),
                top1=row.get("top1"),
                top5=row.get("top5"),
                source=str(stored["source"]),
                url=str(stored["url"]),
                tool=str(stored["tool"]),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise CardError(f"{path} is no table of published figures: {error!r}") from error


def _shared(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stored[name] for name in ("model", "target") if name in stored}


def published_for(model: str, rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Rows of the same architecture: theirs, without a version, is a word of the model's name."""
    words = WORDS.split(model.lower())
    return [row for row in rows if VERSION.sub("", row.model.lower()) in words]
