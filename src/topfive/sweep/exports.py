"""A record in the forms that other tools read: MagicMind's result files, MLPerf's accuracy log, CSV."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from topfive.datasets import Listing
from topfive.errors import SweepError
from topfive.files import write_whole
from topfive.records import SweepRecord

__all__ = ["FORMATS", "export_sweep", "write_csv", "write_magicmind", "write_mlperf"]

MLPERF_DTYPES = {"float32": "<f", "int32": "<i"}


def export_sweep(
    name: str, folder: Path, record: SweepRecord, listing: Listing, names: Sequence[str] = ()
) -> list[Path]:
    """Write a record in the form `name` into a folder of its own; the files. names: of the classes, if known.

    Raises SweepError.
    """
    case = folder / "-".join(record.case)
    named = {"names": names} if name in NAMED else {}
    return FORMATS[name](case, record, listing, **named)


def write_magicmind(
    folder: Path, record: SweepRecord, listing: Listing, *, names: Sequence[str] = ()
) -> list[Path]:
    """What magicmind_cloud's infer_python and compute_top1_and_top5.py write.

    Line i of eval_labels.txt is "[i]: label", of eval_result_1.txt "[i]: class"; eval_result_5.txt has five
    such lines a picture, best first; eval_result.txt has "top1 accuracy: " and "top5 accuracy: " with six
    decimals. i counts the pictures that were run from 0. infer_result.txt has, a picture, "top5 result:" and
    five lines "place [name]"; it is left out where the classes have no names.
    """
    labels = [f"[{i}]: {label}\n" for i, label in enumerate(record.labels.tolist())]
    best = [f"[{i}]: {classes[0]}\n" for i, classes in enumerate(record.top5.tolist())]
    five = [f"[{i}]: {one}\n" for i, classes in enumerate(record.top5.tolist()) for one in classes]
    top1, top5 = record.right1.mean(), record.right5.mean()
    result = f"top1 accuracy: {top1:f}\ntop5 accuracy: {top5:f}\n"
    files = {
        "eval_labels.txt": "".join(labels),
        "eval_result_1.txt": "".join(best),
        "eval_result_5.txt": "".join(five),
        "eval_result.txt": result,
    }
    if names:
        files["infer_result.txt"] = "".join(_in_words(classes, names) for classes in record.top5.tolist())
    return _write(folder, files)


def _in_words(classes: Sequence[int], names: Sequence[str]) -> str:
    """The best classes of a picture by name; -1 is the background class, or a place that none has."""
    words = (names[one] if one >= 0 else "background or none" for one in classes)
    return "top5 result:\n" + "".join(f"{place} [{word}]\n" for place, word in enumerate(words))


def write_mlperf(
    folder: Path, record: SweepRecord, listing: Listing, *, dtype: str = "float32"
) -> list[Path]:
    """LoadGen's mlperf_log_accuracy.json and the val_map.txt that goes with it.

    MLPerf's accuracy-imagenet.py takes `qsl_idx` as a line of the map, from 0, and `data` as the hexadecimal
    bytes of the class, one little-endian number of its --dtype. Missing pictures keep their lines.
    """
    pack = MLPERF_DTYPES[dtype]
    entries = [
        json.dumps({"seq_id": n, "qsl_idx": index, "data": struct.pack(pack, best).hex().upper()})
        for n, (index, best) in enumerate(
            zip(record.indices.tolist(), record.top5[:, 0].tolist(), strict=True)
        )
    ]
    lines = {picture.index: f"{picture.name}\t{picture.label}\n" for picture in listing.pictures}
    lines |= {picture.index: f"{picture.name}\t{picture.label}\n" for picture in listing.missing}
    if any(len(line.split()) != 2 for line in lines.values()):
        raise SweepError(
            f"{listing.root}: a name with blanks cannot be written for MLPerf, whose script splits lines at "
            "them"
        )
    return _write(
        folder,
        {
            "mlperf_log_accuracy.json": "[\n" + ",\n".join(entries) + "\n]\n",
            "val_map.txt": "".join(lines[index] for index in sorted(lines)),
        },
    )


def write_csv(folder: Path, record: SweepRecord, listing: Listing) -> list[Path]:
    """predictions.csv: a line a picture with its place in the list, name, label and five best classes."""
    names = {picture.index: picture.name for picture in listing.pictures}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["index", "name", "label", *(f"top{place}" for place in range(1, 6))])
    rows = zip(record.indices.tolist(), record.labels.tolist(), record.top5.tolist(), strict=True)
    writer.writerows([index, names[index], label, *best] for index, label, best in rows)
    return _write(folder, {"predictions.csv": stream.getvalue()})


def _write(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        write_whole(folder / name, text.encode(), SweepError, "choose another folder with --out")
    return [folder / name for name in files]


NAMED = ("magicmind",)
"""Formats that hold names of classes."""
FORMATS: dict[str, Callable[..., list[Path]]] = {
    "csv": write_csv,
    "magicmind": write_magicmind,
    "mlperf": write_mlperf,
}
