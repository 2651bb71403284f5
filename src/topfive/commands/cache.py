"""`topfive cache`: what is in the cache, how large and old it is, what uses it, and removing it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.table import Table

from topfive.cache import MANIFEST, cache_root
from topfive.cards import load_cards
from topfive.commands import print_json
from topfive.errors import OptionError
from topfive.images.packed import pack_key, pack_source
from topfive.records import list_records, records_folder
from topfive.report.terminal import as_text
from topfive.sources import kept_file

__all__ = ["Item", "Pruning", "items_of", "list_cache", "prune_cache"]

DAY = 86_400.0
CROPS, DOWNLOADS, LOCKS = "crops", "downloads", "locks"


@dataclass(frozen=True)
class Item:
    """One thing in the cache.

    kind: of an artifact its stage (fetch ... compile), else the folder it lies in (crops, downloads, sweeps
    ...). age: days since it was made. users: `stage key` of artifacts made from it, of a download the cards
    whose file it is. records: ids of those that were made with it.
    """

    kind: str
    name: str
    path: Path
    bytes: int
    age: float
    key: str = ""
    users: tuple[str, ...] = ()
    records: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Pruning:
    """What to remove: all conditions hold. older: days. unused: what no record and no later stage uses."""

    kinds: tuple[str, ...] = ()
    older: float | None = None
    unused: bool = False
    everything: bool = False
    dry_run: bool = False


def items_of(cache: Path, records: Path) -> list[Item]:
    """Everything under a cache folder, the largest first."""
    manifests = dict(_manifests(cache))
    keys_of_records = _built_in(records)
    later: dict[str, list[str]] = {}
    for path, manifest in manifests.items():
        text = json.dumps(manifest.get("fields", {}))
        for other, found in manifests.items():
            if other != path and found["key"] in text:
                later.setdefault(found["key"], []).append(f"{path.parts[-3]} {manifest['key'][:12]}")
    items = [
        Item(
            kind=path.parts[-3],
            name=_named(manifest),
            path=path,
            bytes=_size(path),
            age=_age(path),
            key=str(manifest["key"]),
            users=tuple(sorted(later.get(manifest["key"], ()))),
            records=tuple(sorted(keys_of_records.get(manifest["key"], ()))),
        )
        for path, manifest in manifests.items()
    ]
    others = [*_packs(cache, records), *_downloads(cache), *_others(cache)]
    return sorted([*items, *others], key=lambda item: (-item.bytes, str(item.path)))


def _manifests(cache: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path in sorted(cache.glob(f"artifacts/*/*/*/{MANIFEST}")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(manifest.get("key"), str):
                yield path.parent, manifest
        except (OSError, ValueError, AttributeError):
            continue


def _built_in(records: Path) -> dict[str, set[str]]:
    """Cache keys -> ids of the records whose tests were built from them, at any stage."""
    found: dict[str, set[str]] = {}
    for one in list_records(records, damaged=[]):
        for test in one.record["tests"]:
            built = test.get("built") or {}
            fields = built.get("fields") or {}
            for key in (built.get("entry"), *(fields.values() if isinstance(fields, dict) else ())):
                if isinstance(key, str):
                    found.setdefault(key, set()).add(one.id)
    return found


def _named(manifest: Mapping[str, Any]) -> str:
    fields = manifest.get("fields", {})
    names = [str(fields[name]) for name in ("model", "target", "quant", "architecture") if name in fields]
    return " ".join(name[:40] for name in names) or str(manifest["key"])[:12]


def _packs(cache: Path, records: Path) -> Iterator[Item]:
    """Packed pictures, used by the records of the sweeps over them."""
    users: dict[str, set[str]] = {}
    for one in list_records(records, damaged=[]):
        for entry in (one.record, *one.record["tests"]):
            if isinstance(plan := entry.get("sweep", {}).get("plan"), dict):
                users.setdefault(_pack_of(plan), set()).add(one.id)
    for path in sorted(cache.glob(f"{CROPS}/??/*")):
        if not path.is_dir():
            continue
        found = tuple(sorted(users.get(path.name, ())))
        yield Item(CROPS, _pack_named(path), path, _size(path), _age(path), path.name, records=found)


def _pack_of(plan: Mapping[str, Any]) -> str:
    """The pack that a sweep's plan uses; "" for a plan that does not say."""
    try:
        source = pack_source(plan["root"], plan["labels_from"])
        return pack_key(source, plan["listed"], plan["crop"])
    except KeyError:
        return ""


def _pack_named(path: Path) -> str:
    """Data set, profile, size and number of pictures; the start of the key where that is not told."""
    try:
        about = json.loads((path / "about.json").read_text(encoding="utf-8"))
        height, width = about["size"]
        place = str(about["source"]).partition("\n")[0].rstrip("/").rpartition("/")[2]
        return f"{place} {about['profile']} {height}x{width}, {about['count']} pictures"
    except (OSError, ValueError, KeyError, TypeError):
        return path.name[:12]


def _downloads(cache: Path) -> Iterator[Item]:
    """Models that were fetched or made from a recipe, used by the cards whose file they are."""
    folder = cache / DOWNLOADS
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".lock") if folder.is_dir() else []
    users: dict[str, set[str]] = {}
    for card in load_cards().values() if paths else ():
        if (kept := kept_file(card, folder)) is not None:
            # An exported file has a note beside it.
            for name in (kept.name, kept.with_suffix(".json").name):
                users.setdefault(name, set()).add(card.name)
    for path in paths:
        found = tuple(f"card {name}" for name in sorted(users.get(path.name, ())))
        yield Item(DOWNLOADS, path.name, path, _size(path), _age(path), users=found)


def _others(cache: Path) -> Iterator[Item]:
    """The rest: unfinished sweeps, and whatever else lies there."""
    for folder in sorted(cache.iterdir()) if cache.is_dir() else ():
        if not folder.is_dir() or folder.name in ("artifacts", CROPS, DOWNLOADS, LOCKS):
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix != ".lock" and path.name != LOCKS:
                yield Item(folder.name, path.name, path, _size(path), _age(path))


def _size(path: Path) -> int:
    """Bytes that a file or folder takes on the disk; packed pictures are files with holes."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(p.stat().st_blocks * 512 for p in files if p.exists())


def _age(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime) / DAY


def list_cache(cache: Path | None, records: Path | None, kinds: Iterable[str], *, as_json: bool) -> None:
    """Print what is in the cache."""
    root = cache_root(cache)
    items = [i for i in items_of(root, records_folder(records)) if not kinds or i.kind in kinds]
    total = sum(item.bytes for item in items)
    if as_json:
        print_json({"cache": str(root), "bytes": total, "items": [_json(item) for item in items]})
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for title in ("kind", "size", "days", "name", "used by"):
        table.add_column(title, justify="right" if title in ("size", "days") else "left", no_wrap=True)
    for item in items:
        table.add_row(item.kind, shown_bytes(item.bytes), f"{item.age:.1f}", item.name, _users(item))
    if items:
        sys.stdout.write(as_text(table) + "\n")
    sys.stdout.write(f"{root}: {len(items)} items, {shown_bytes(total)}\n")


def _json(item: Item) -> dict[str, Any]:
    return {**asdict(item), "path": str(item.path)}


def _users(item: Item) -> str:
    parts = []
    if item.records:
        parts.append(f"{len(item.records)} records")
    if item.users:
        parts.append(", ".join(item.users[:2]) + (f" +{len(item.users) - 2}" if len(item.users) > 2 else ""))
    return "; ".join(parts) or "-"


def shown_bytes(count: int) -> str:
    """A size as people read it."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def prune_cache(cache: Path | None, records: Path | None, pruning: Pruning, *, as_json: bool) -> None:
    """Remove what the conditions choose. Raises OptionError without any condition.

    An artifact is removed under its own lock; one that a build holds right now is left.
    """
    if not (pruning.kinds or pruning.older is not None or pruning.unused or pruning.everything):
        raise OptionError("say what to remove: --kind, --older DAYS, --unused, or --all")
    if pruning.older is not None and not pruning.older >= 0:
        raise OptionError(f"--older {pruning.older:g}: a number of days, 0 or more")
    root = cache_root(cache)
    chosen = [item for item in items_of(root, records_folder(records)) if _chosen(item, pruning)]
    removed = [item for item in chosen if pruning.dry_run or _removed(item)]
    total = sum(item.bytes for item in removed)
    if as_json:
        print_json({"bytes": total, "dry_run": pruning.dry_run, "items": [_json(item) for item in removed]})
        return
    for item in removed:
        sys.stdout.write(f"{item.kind} {item.name} ({shown_bytes(item.bytes)})\n")
    verb = "would be removed" if pruning.dry_run else "removed"
    sys.stdout.write(f"{len(removed)} items, {shown_bytes(total)} {verb}\n")


def _chosen(item: Item, pruning: Pruning) -> bool:
    if pruning.kinds and item.kind not in pruning.kinds:
        return False
    if pruning.older is not None and item.age < pruning.older:
        return False
    return not (pruning.unused and (item.records or item.users))


def _removed(item: Item) -> bool:
    lock = FileLock(item.path.parent / f"{item.path.name}.lock", timeout=0)
    try:
        with lock:
            if item.path.is_dir():
                doomed = item.path.with_name(f"{item.path.name}.removed")
                item.path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
            else:
                item.path.unlink(missing_ok=True)
    except (Timeout, OSError):
        return False
    return True
