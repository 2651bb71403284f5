"""`topfive preprocess --profile`: pictures as .npy files, in the formats of the MLPerf TensorRT harness."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from topfive.commands import print_json
from topfive.commands.progress_bar import CountedProgress
from topfive.errors import CardError, ImageError
from topfive.images import load_profile
from topfive.images.calibration_set import calibration_pictures
from topfive.images.folders import list_images
from topfive.images.preprocessed import Written, write_preprocessed

__all__ = ["FORMATS", "write_formats"]

FORMATS = {"fp32": "", "int8_linear": "_int8", "int8_chw4": "_nhw4"}
"""Format -> what is added to the profile's name."""
CALIBRATION_FORMATS = ("fp32",)
VALIDATION_FORMATS = ("int8_chw4",)
INSIDE = Path("imagenet", "ResNet50")
DATASET = "imagenet"


def write_formats(
    source: Path,
    output: Path,
    *,
    profile: str,
    formats: str,
    data_maps: Path | None,
    val_only: bool,
    cal_only: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write `output`/imagenet/ResNet50/<format>/<name>.npy of the validation and calibration pictures.

    source: the folder of the pictures, or one that holds them in `imagenet`. data_maps: holds val_map.txt and
    cal_map.txt, itself or in `imagenet` (default: the source). formats: of the validation pictures, separated
    by commas ("": int8_chw4); calibration pictures are fp32. Files that their manifest knows are used again.
    """
    if val_only and cal_only:
        raise CardError("--val-only and --cal-only leave nothing: give one of them, or neither")
    chosen = [name.strip() for name in formats.split(",") if name.strip()] or list(VALIDATION_FORMATS)
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise CardError(f"format {unknown[0]!r} is unknown: choose of {', '.join(FORMATS)}")
    pictures = source / DATASET if (source / DATASET).is_dir() else source
    if output.resolve() == pictures.resolve() or output.resolve().is_relative_to(pictures.resolve()):
        raise ImageError(f"{output}: is inside {pictures}; choose another --output")
    maps = data_maps or source
    maps = maps / DATASET if (maps / DATASET / "val_map.txt").is_file() else maps
    found: list[tuple[str, Written]] = []
    if not cal_only:
        names = [(i.name, i.path) for i in list_images(pictures, map_file=_map(maps, "val_map.txt"))]
        found += _run("validation", names, output, profile, chosen, overwrite)
    if not val_only:
        paths = calibration_pictures(pictures, _map(maps, "cal_map.txt"))
        names = [(path.relative_to(pictures).as_posix(), path) for path in paths]
        found += _run("calibration", names, output, profile, CALIBRATION_FORMATS, overwrite)
    _say(found, as_json)


def _map(maps: Path, name: str) -> Path:
    if not (maps / name).is_file():
        raise ImageError(f"{maps / name}: no such list of pictures: name its folder with --data-maps")
    return maps / name


def _run(
    what: str,
    pictures: list[tuple[str, Path]],
    output: Path,
    profile: str,
    formats: Sequence[str],
    overwrite: bool,
) -> list[tuple[str, Written]]:
    places = {output / INSIDE / name: load_profile(profile + FORMATS[name]) for name in formats}
    with CountedProgress(f"{what} pictures") as counted:
        return [
            (what, written)
            for written in write_preprocessed(pictures, places, overwrite=overwrite, progress=counted.show)
        ]


def _say(found: list[tuple[str, Written]], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "set": what,
                    "folder": str(written.folder),
                    "made": len(written.made),
                    "reused": len(written.reused),
                    "stale": written.stale,
                }
                for what, written in found
            ]
        )
        return
    for what, written in found:
        made, reused, stale = len(written.made), len(written.reused), len(written.stale)
        line = f"{written.folder}: {made} {what} pictures written, {reused} up to date"
        for name, reason in [*written.stale.items()][:1]:
            line += f"; {stale} were stale ({name}.npy {reason})"
        sys.stdout.write(line + "\n")
