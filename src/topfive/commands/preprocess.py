"""`topfive preprocess`: a folder of labelled pictures made ready for the runner, which does not resize."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image

from topfive.commands import print_json
from topfive.errors import FetchError, ImageError
from topfive.images import LabelledImage, Profile, crop_uint8, list_images, load_profile
from topfive.sources.atomic import replacing

__all__ = ["draw_sample", "write_crops"]

RULE = "caffe2_resize"  # its picture steps are the runner's batch tool's: shorter side 256 cubic, centre 224
LIST = "batch_out.txt"


def write_crops(
    source: Path,
    output: Path,
    *,
    sample: int | None,
    seed: int,
    lossy: bool,
    classes: Path | None,
    as_json: bool,
) -> None:
    """Write `output`/<label>/<name>.png, 224x224, of each picture, then batch_out.txt, which lists them.

    The list names the files as `output` was given, in the order of `list_images(source)`. sample: how many to
    draw (seeded; the order stays). lossy: JPEG as OpenCV writes it by default (quality 95, chroma halved)
    instead of PNG. classes: a file whose line n starts with the name of class n's folder. Each file appears
    whole or not at all. Raises ImageError naming a picture that cannot be read or has no label, two pictures
    of one name and label, a sample larger than the folder, an output inside the source, or a file that cannot
    be written.
    """
    if output.resolve().is_relative_to(source.resolve()):
        raise ImageError(f"{output}: is inside {source}, whose folders are classes; choose another --output")
    pictures = draw_sample(list_images(source, _class_names(classes)), sample, seed, source)
    places = _places(pictures, output, ".jpg" if lossy else ".png")
    profile = load_profile(RULE)
    try:
        for picture, place in zip(pictures, places, strict=True):
            _write_crop(picture.path, place, profile, lossy=lossy)
        with replacing(output / LIST) as temporary:
            temporary.write_text("".join(f"{place}\n" for place in places), encoding="utf-8")
    except FetchError as error:
        raise ImageError(error.message) from error
    if as_json:
        print_json({"list": str(output / LIST), "pictures": [str(place) for place in places]})
    else:
        sys.stdout.write(f"{output / LIST}: {len(places)} pictures\n")


def draw_sample(
    pictures: list[LabelledImage], sample: int | None, seed: int, source: Path
) -> list[LabelledImage]:
    """`sample` of the pictures, drawn with `seed`, in their old order; all of them for None."""
    if sample is None:
        return pictures
    if sample > len(pictures):
        raise ImageError(f"{source}: has {len(pictures)} pictures; draw at most so many, not {sample}")
    return [pictures[n] for n in sorted(random.Random(seed).sample(range(len(pictures)), sample))]


def _class_names(classes: Path | None) -> list[str] | None:
    if classes is None:
        return None
    try:
        lines = classes.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{classes}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise ImageError(
                f"{classes}, line {number}: is blank; write the name of class {number - 1}'s folder"
            )
    return [line.split()[0] for line in lines]


def _places(pictures: list[LabelledImage], output: Path, suffix: str) -> list[Path]:
    """Where each picture goes; every one must have a label and a place of its own."""
    taken: dict[Path, Path] = {}
    for picture in pictures:
        if picture.label is None:
            raise ImageError(
                f"{picture.path}: has no label; use class folders, or val_map.txt with 'name index' lines"
            )
        place = output / str(picture.label) / f"{picture.path.stem}{suffix}"
        if not str(place).isprintable():
            raise ImageError(f"{str(place)!r}: cannot stand in a list of paths; rename the picture")
        if place in taken:
            raise ImageError(f"{picture.path}: would become {place}, as {taken[place]}; rename one of them")
        if place.exists() and place.samefile(picture.path):
            raise ImageError(f"{picture.path}: would be overwritten; choose another --output")
        taken[place] = picture.path
    return list(taken)


def _write_crop(picture: Path, place: Path, profile: Profile, *, lossy: bool) -> None:
    crop = Image.fromarray(crop_uint8(picture, profile))
    with replacing(place) as temporary:
        if lossy:
            crop.save(temporary, format="JPEG", quality=95, subsampling="4:2:0")
        else:
            crop.save(temporary, format="PNG")
