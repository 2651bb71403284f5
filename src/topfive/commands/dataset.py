"""`topfive dataset`: finding, registering, checking and drawing picture sets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from topfive.commands import print_json
from topfive.datasets.cards import (
    CARD_FILE,
    DatasetCard,
    escaped,
    find_dataset,
    register_dataset,
    registered,
    write_card,
)
from topfive.datasets.check import check_dataset
from topfive.datasets.detect import Found, detect
from topfive.datasets.listing import Listing, list_dataset
from topfive.datasets.storage import is_url
from topfive.errors import CardError, TopfiveError
from topfive.images import procedural

__all__ = ["check_set", "make_set", "print_found", "print_registered", "register_set"]

SHOWN = 20


def print_found(search: Path, depth: int, *, as_json: bool) -> None:
    """Print each set below a folder, and the command that registers it."""
    found = detect(search, depth)
    if as_json:
        print_json([{**_described(one.card, one.listing), "problem": one.problem} for one in found])
        return
    for one in found:
        root = one.card.root if one.listing else one.card.folder
        sys.stdout.write(f"{root}\n")
        if one.listing is None:
            sys.stdout.write(f"  cannot be used: {one.problem}\n")
            continue
        sys.stdout.write(f"  {_summary(one.listing)}\n  {_register_command(one)}\n")
    if not found:
        sys.stdout.write(f"no picture set in {search} and {depth} folders below it\n")


def register_set(name: str, folder: str, stated: Mapping[str, Any], *, as_json: bool) -> None:
    """Write the card of a set that can be listed. Raises ImageError or CardError if it cannot."""
    if not is_url(folder) and not Path(folder).is_dir():
        raise CardError(f"{folder}: no such folder")
    card = replace(find_dataset(folder), name=name)
    given = {key: value for key, value in stated.items() if value is not None}
    paths = {key: escaped(str(value)) for key, value in given.items() if isinstance(value, Path)}
    card = replace(card, **{**given, **paths})
    if card.map and card.synsets:
        raise CardError("--map and --synsets: a map labels files, synsets label class folders; give one")
    listing = list_dataset(card)
    written = register_dataset(card)
    if as_json:
        print_json(_described(written, listing))
    else:
        sys.stdout.write(f"{name}: {_summary(listing)}\n{written.path}\n")


def print_registered(*, as_json: bool) -> None:
    """Print every registered card; a set that cannot be used says why."""
    rows = []
    for card in registered().values():
        listing, problem = None, ""
        try:
            listing = list_dataset(card)
        except TopfiveError as error:
            problem = error.message
        rows.append({**_described(card, listing), "problem": problem})
        if not as_json:
            text = _summary(listing) if listing else f"cannot be used: {problem}"
            sys.stdout.write(f"{card.name}: {card.root}\n  {text}\n")
    if as_json:
        print_json(rows)


def check_set(name: str, map_file: Path | None, threads: int, *, as_json: bool) -> bool:
    """Print what is wrong with a set; whether nothing is."""
    card = find_dataset(name)
    if map_file is not None:
        card = replace(card, map=escaped(str(map_file)), synsets="")
    shown = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if shown:
            sys.stderr.write(f"\r{done}/{total} pictures" + ("\n" if done == total else ""))

    checked = check_dataset(card, threads=threads, progress=progress)
    problems = checked.problems
    if as_json:
        described = _described(card, checked.listing)
        print_json({**described, "problems": problems, "notes": checked.notes})
        return not problems
    sys.stdout.write(f"{card.name}: {_summary(checked.listing)}\n")
    for note in checked.notes:
        sys.stdout.write(f"  {note}\n")
    for problem in problems[:SHOWN]:
        sys.stdout.write(f"  {problem}\n")
    if len(problems) > SHOWN:
        sys.stdout.write(f"  ... and {len(problems) - SHOWN} more\n")
    sys.stdout.write(f"{len(problems)} problems\n" if problems else "no problems\n")
    return not problems


def make_set(
    folder: Path, images: int, *, seed: int, split: str, form: str, workers: int, as_json: bool
) -> None:
    """Draw a set and write its card, last, so that a set that was interrupted has none."""
    if form not in ("flat", "folders"):
        raise CardError(f"--form {form!r}: choose flat or folders")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CardError(f"{folder}: exists and is not an empty folder; choose another, or remove it")
    write = procedural.write_flat if form == "flat" else procedural.write_class_folders
    write(folder, images, seed=seed, split=split, workers=workers)
    card = DatasetCard(
        name=f"drawn_{split}_{seed}_{images}",
        description=f"{images} pictures drawn by topfive: seed {seed}, split {split}",
        map="val_map.txt" if form == "flat" else "",
        classes=procedural.CLASSES,
        path=folder / CARD_FILE,
    )
    write_card(card, card.path)
    listing = list_dataset(find_dataset(str(folder)))
    if as_json:
        print_json(_described(card, listing))
    else:
        sys.stdout.write(f"{folder}: {_summary(listing)}\n")


def _summary(listing: Listing) -> str:
    missing = f", {len(listing.missing)} missing" if listing.missing else ""
    listed = "" if len(listing.pictures) == listing.listed else f" of {listing.listed:,} listed"
    classes = f"{listing.classes} classes" if listing.classes else "number of classes not stated"
    return (
        f"{len(listing.pictures):,} pictures{listed}{missing}; {listing.form}; labels from "
        f"{listing.labels_from}, counted from {listing.first_label}; {classes}"
    )


def _register_command(found: Found) -> str:
    card = found.card
    options = f" --first-label {card.first_label}" if card.first_label else ""
    options += f" --images {card.images}" if card.images else ""
    return f"topfive dataset register {card.name} {shlex.quote(card.root)}{options}"


def _described(card: DatasetCard, listing: Listing | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": card.name,
        "folder": card.root if listing else card.folder,
        "first_label": card.first_label,
        "card": str(card.path) if card.path.name else None,
    }
    if listing is not None:
        described |= {
            "form": listing.form,
            "labels_from": listing.labels_from,
            "pictures": len(listing.pictures),
            "listed": listing.listed,
            "missing": [picture.name for picture in listing.missing],
            "classes": listing.classes or None,
        }
    return described
