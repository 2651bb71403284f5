"""Reading and writing golden files: JSON with one picture a line, so that a diff shows pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from topfive.errors import GoldenError
from topfive.golden.records import FORMAT, Golden, GoldenImage, Ranked, Tolerance

__all__ = ["golden_path", "read_golden", "write_golden"]

RESTORE = "restore the file from version control, or delete it and run pytest --update-golden"
SCORES = ("logit", "probability")
HEX = frozenset("0123456789abcdef")


def golden_path(root: Path, model: str, target: str, quant: str) -> Path:
    """Where the golden of a case lies below the golden folder `root`."""
    return root / model / f"{target}-{quant}.json"


def write_golden(golden: Golden, path: Path) -> None:
    """Write the file whole or not at all; GoldenError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(dumps(golden), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise GoldenError(f"{path} cannot be written: {error.strerror or error}") from error


def dumps(golden: Golden) -> str:
    """The text of a golden file: a header, then a line a picture."""
    header: dict[str, Any] = {
        "format": FORMAT,
        "model": golden.model,
        "target": golden.target,
        "quant": golden.quant,
        "source_sha256": golden.source_sha256,
        "profile": golden.profile,
        "artifact": golden.artifact,
        "decoder": golden.decoder,
        "versions": dict(sorted(golden.versions.items())),
        "score": golden.score,
        "tolerance": {"relative": golden.tolerance.relative, "absolute": golden.tolerance.absolute},
        "top1": golden.top1,
        "exact_tensors": list(golden.exact_tensors),
    }
    if golden.modelled_cycles:
        header["modelled_cycles"] = {k: dict(v) for k, v in golden.modelled_cycles.items()}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in header.items()]
    images = ",\n".join(f"  {json.dumps(_image(i), ensure_ascii=False)}" for i in golden.images)
    return "\n".join(["{", *lines, ' "images": [', images, " ]", "}", ""])


def _image(image: GoldenImage) -> dict[str, Any]:
    top5 = [[index, label, _shortest(score)] for index, label, score in image.top5]
    row: dict[str, Any] = {"file": image.file, "sha256": image.sha256, "top5": top5}
    return {**row, "int8": list(image.int8)} if image.int8 else row


def _shortest(score: float) -> float:
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(score)))


def read_golden(path: Path) -> Golden:
    """Read one file; GoldenError naming the file and the key when it is missing or malformed."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GoldenError(
            f"{path} is missing: run pytest --update-golden to make it, look at it, commit it"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise GoldenError(f"{path} is not a readable golden file: {RESTORE}", details=str(error)) from error
    try:
        return _golden(_Reader(path, stored, ""))
    except (TypeError, OverflowError) as error:
        raise GoldenError(f"{path} is malformed: {RESTORE}", details=str(error)) from error


class _Reader:
    """Typed access to one JSON object; every fault names file and key."""

    def __init__(self, path: Path, value: Any, place: str) -> None:
        self.path, self.place = path, place
        if not isinstance(value, dict):
            raise self.fault("", "must be an object")
        self.value = value

    def fault(self, key: str, what: str) -> GoldenError:
        name = ".".join(part for part in (self.place, key) if part) or "the file"
        return GoldenError(f"{self.path}: {name} {what}: {RESTORE}")

    def get(self, key: str, check: Callable[[Any], bool], wanted: str) -> Any:
        if key not in self.value:
            raise self.fault(key, "is missing")
        if not check(self.value[key]):
            raise self.fault(key, f"must be {wanted}")
        return self.value[key]

    def text(self, key: str) -> str:
        return str(self.get(key, lambda v: isinstance(v, str), "text"))

    def sha256(self, key: str) -> str:
        return str(self.get(key, _is_sha256, "64 hexadecimal digits"))

    def inner(self, key: str) -> _Reader:
        return _Reader(self.path, self.get(key, lambda v: isinstance(v, dict), "an object"), key)

    def number(self, key: str) -> float:
        return float(self.get(key, lambda v: _is_number(v) and v >= 0, "a number of 0 or more"))

    def texts(self, key: str) -> tuple[str, ...]:
        good = "a list of texts"
        return tuple(
            self.get(key, lambda v: isinstance(v, list) and all(isinstance(i, str) for i in v), good)
        )


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= HEX


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _golden(read: _Reader) -> Golden:
    read.get("format", lambda v: v == FORMAT, f"{FORMAT}, the only format this topfive knows")
    tolerance = read.inner("tolerance")
    exact = read.texts("exact_tensors")
    rows = read.get("images", lambda v: isinstance(v, list) and bool(v), "a list of at least one picture")
    images = tuple(
        _read_image(_Reader(read.path, row, f"images[{n}]"), len(exact)) for n, row in enumerate(rows)
    )
    names = [image.file for image in images]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise read.fault(f"images[{number}].file", f"names {name!r} a second time")
    versions = read.inner("versions")
    return Golden(
        model=read.text("model"),
        target=read.text("target"),
        quant=read.text("quant"),
        source_sha256=read.sha256("source_sha256"),
        profile=read.text("profile"),
        score=read.get("score", lambda v: v in SCORES, f"one of {', '.join(SCORES)}"),
        tolerance=Tolerance(tolerance.number("relative"), tolerance.number("absolute")),
        images=images,
        exact_tensors=exact,
        top1=read.get("top1", lambda v: v is None or (_is_number(v) and 0 <= v <= 1), "null or 0 to 1"),
        artifact=read.text("artifact"),
        decoder=read.text("decoder"),
        versions={key: versions.text(key) for key in versions.value},
        modelled_cycles=_read_cycles(read) if "modelled_cycles" in read.value else {},
    )


def _read_cycles(read: _Reader) -> dict[str, dict[str, int]]:
    batches = read.inner("modelled_cycles")
    found = {}
    for batch in batches.value:
        figures = _Reader(read.path, batches.value[batch], f"modelled_cycles.{batch}")
        found[batch] = {name: int(figures.number(name)) for name in figures.value}
    return found


def _read_image(read: _Reader, exact_tensors: int) -> GoldenImage:
    hashes = read.texts("int8") if "int8" in read.value else ()
    if len(hashes) != exact_tensors or not all(_is_sha256(h) for h in hashes):
        raise read.fault("int8", f"must be {exact_tensors} SHA-256, one for each of exact_tensors")
    top5 = read.get("top5", _is_top5, "1 to 5 lists of [index, label, score], best first, each class once")
    ranked: Ranked = tuple((index, label, float(np.float32(score))) for index, label, score in top5)
    return GoldenImage(read.text("file"), read.sha256("sha256"), ranked, hashes)


def _is_top5(value: Any) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= 5:
        return False
    for row in value:
        if not (isinstance(row, list) and len(row) == 3 and isinstance(row[1], str) and _is_number(row[2])):
            return False
        if not isinstance(row[0], int) or isinstance(row[0], bool) or row[0] < 0:
            return False
    scores = [row[2] for row in value]
    return len({row[0] for row in value}) == len(value) and scores == sorted(scores, reverse=True)
