"""Declarations of `topfive dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import Json

__all__ = ["check", "detect", "list_registered", "make", "register"]

Map = Annotated[Path | None, typer.Option("--map", help="The label file: lines 'name index'.")]
Synsets = Annotated[
    Path | None, typer.Option("--synsets", help="Line n starts with the WNID of class n: for class folders.")
]
Set = Annotated[str, typer.Argument(metavar="SET", help="A folder, a URL, or a registered name.")]


def detect(
    *,
    search_dir: Annotated[Path, typer.Option("--search-dir", help="Where to look.")],
    depth: Annotated[int, typer.Option("--depth", min=0, help="Folders below it to search.")] = 3,
    json: Json = False,
) -> None:
    """Find picture sets below a folder and say how to register them."""
    from topfive.commands.dataset import print_found

    print_found(search_dir, depth, as_json=json)


def register(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder, or a fsspec URL.")],
    *,
    map: Map = None,
    synsets: Synsets = None,
    first_label: Annotated[
        int | None, typer.Option("--first-label", min=0, max=1, help="1: the labels count from 1.")
    ] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=2, help="How many there are.")] = None,
    images: Annotated[int | None, typer.Option("--images", min=1, help="Only the first so many.")] = None,
    json: Json = False,
) -> None:
    """Check that a set can be listed and write its card, so that --imagenet NAME finds it."""
    from topfive.commands.dataset import register_set

    stated = {
        "map": map and map.absolute(),
        "synsets": synsets and synsets.absolute(),
        "first_label": first_label,
        "classes": classes,
        "images": images,
    }
    register_set(name, folder, stated, as_json=json)


def list_registered(json: Json = False) -> None:
    """List the registered sets."""
    from topfive.commands.dataset import print_registered

    print_registered(as_json=json)


def check(
    dataset: Set,
    *,
    map: Map = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Pictures decoded at once.")] = 1,
    json: Json = False,
) -> None:
    """List a set and decode all its pictures; exit code 1 if anything is wrong with it."""
    from topfive.commands.dataset import check_set

    if not check_set(dataset, map.absolute() if map else None, threads, as_json=json):
        raise typer.Exit(1)


def make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    *,
    images: Annotated[int, typer.Option("--images", min=1, help="How many pictures.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the set.")] = 0,
    split: Annotated[str, typer.Option("--split", help="Another name gives other pictures.")] = "sweep",
    form: Annotated[str, typer.Option("--form", help="flat (with val_map.txt) or folders.")] = "flat",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that draw.")] = 1,
    json: Json = False,
) -> None:
    """Draw a set of 100 classes in ImageNet's layout, of any size, for scale tests."""
    from topfive.commands.dataset import make_set

    make_set(folder, images, seed=seed, split=split, form=form, workers=workers, as_json=json)
