"""`topfive fetch`: models of cards onto this machine, by download or by export."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topfive import sources
from topfive.cache import cache_root
from topfive.cards import Card, load_cards
from topfive.commands import print_json
from topfive.commands.listing import tagged_cards
from topfive.errors import FetchError

__all__ = ["How", "fetch_models"]


@dataclass(frozen=True)
class How:
    """How networks are exported. seed: of random weights, None for the published ones."""

    opset: int | None = None
    seed: int | None = None
    clip_float16: bool = False


def fetch_models(
    names: Sequence[str],
    tags: Sequence[str],
    how: How,
    *,
    keep_going: bool,
    discard: bool,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> bool:
    """Fetch every model that matches; False if `keep_going` passed over a failure.

    discard: keep nothing, only show that it can be had. Raises UnknownNameError, FetchError.
    """
    rows: list[dict[str, Any]] = []
    for card in tagged_cards(load_cards(cards), names, tags):
        try:
            if discard:
                with tempfile.TemporaryDirectory() as folder:
                    row = _fetch(card, Path(folder), how)
                row.pop("path")
            else:
                row = _fetch(card, cache_root(cache) / "downloads", how)
        except FetchError as error:
            if not keep_going:
                raise
            row = {"name": card.name, "error": error.message}
        rows.append(row)
        if not as_json:
            sys.stdout.write(_line(row))
            sys.stdout.flush()
    if as_json:
        print_json(rows)
    return not any("error" in row for row in rows)


def _fetch(card: Card, downloads: Path, how: How) -> dict[str, Any]:
    if card.source.kind not in sources.EXPORTED:
        if how != How():
            raise FetchError(
                f"{card.name} comes from kind {card.source.kind!r}, which is not exported: "
                "--opset, --random-weights and --clip-float16 do not apply"
            )
        path = sources.resolve(card, downloads, allow_download=True)
        return {"name": card.name, "path": str(path)}
    from topfive.sources.export import export

    found = export(card, downloads, opset=how.opset, seed=how.seed, clip_float16=how.clip_float16)
    return {"name": card.name, **json.loads(json.dumps(asdict(found), default=str))}


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']}: failed: {row['error']}\n"
    path = f"  {row['path']}\n" if "path" in row else ""
    if "opset" not in row:
        return f"{row['name']}\n{path}"
    outside = row["outside_float16"]
    clipped = f", {outside} weights beyond float16{' clipped' if row['clipped'] else ''}" if outside else ""
    return (
        f"{row['name']}: {row['weights']}, opset {row['opset']}, {row['nodes']} nodes, "
        f"{row['parameters'] / 1e6:.3f} M weights, differs from PyTorch by {row['difference']:.1e} of the "
        f"largest logit{clipped}\n{path}"
    )
