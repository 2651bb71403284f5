"""Preprocessing: pictures a CPU-second, the packed cache against MLPerf's way, for the same bits.

    python bench/preprocess_speed.py [--pictures 100] [--rounds 5]

MLPerf's reference reads with cv2.imread, resizes with INTER_AREA, crops, subtracts the means and saves each
picture as float32 with np.save; it is written out here with plain cv2 (extra: opencv). topfive decodes,
resizes, crops and keeps uint8 rows. Rounds alternate; medians of ratios of one round's CPU time are printed.
"again" is the second time, when MLPerf's loads its files and topfive maps its rows; both give float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from photographs import write_photographs
from topfive.datasets.storage import LocalFolder
from topfive.images import load_profile, normalise
from topfive.images.packed import File, Pack

SIZE = (224, 224)
MEANS = np.array([123.68, 116.78, 103.94], np.float32)
BATCH = 8


def mlperf_picture(path: Path) -> np.ndarray:
    """pre_process_vgg of the reference, on one core."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    height, width = picture.shape[:2]
    if height > width:
        new_width, new_height = 256, int(256 * height / width)
    else:
        new_width, new_height = int(256 * width / height), 256
    picture = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_AREA)
    left, top = int((new_width - 224) / 2), int((new_height - 224) / 2)
    numbers = np.asarray(picture[top : top + 224, left : left + 224], dtype=np.float32)
    numbers = numbers - MEANS
    return numbers.transpose([2, 0, 1])


def mlperf_fresh(paths: list[Path], folder: Path) -> None:
    for path in paths:
        np.save(folder / f"{path.name}.npy", mlperf_picture(path))


def mlperf_again(paths: list[Path], folder: Path) -> list[np.ndarray]:
    loaded = [np.load(folder / f"{path.name}.npy") for path in paths]
    return [np.array(loaded[start : start + BATCH]) for start in range(0, len(paths), BATCH)]


def topfive_batches(paths: list[Path], cache: Path, *, tensors: bool) -> list[np.ndarray]:
    profile, storage = load_profile("mlperf_vgg"), LocalFolder(paths[0].parent)
    found = []
    with Pack(cache, "benchmark", len(paths), profile, SIZE) as pack:
        for start in range(0, len(paths), BATCH):
            part = range(start, min(start + BATCH, len(paths)))
            files = [File(paths[n].name, paths[n].read_bytes, storage.stamp(paths[n].name)) for n in part]
            crops = pack.crops(part, files)
            if tensors:
                found.append(normalise(crops, profile))
    return found


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(paths: list[Path], rounds: int, scratch: Path) -> None:
    rows: dict[str, list[tuple[float, float]]] = {"fresh": [], "fresh, with float32": [], "again": []}
    for number in range(rounds):
        theirs, ours, others = (scratch / f"{name}{number}" for name in ("mlperf", "topfive", "tensors"))
        theirs.mkdir()
        calls = [
            lambda place=theirs: mlperf_fresh(paths, place),
            lambda place=ours: topfive_batches(paths, place, tensors=False),
            lambda place=others: topfive_batches(paths, place, tensors=True),
        ]
        order = [0, 1, 2] if number % 2 else [2, 1, 0]
        spent = {index: seconds(calls[index]) for index in order}
        rows["fresh"].append((spent[0], spent[1]))
        rows["fresh, with float32"].append((spent[0], spent[2]))
        again = seconds(lambda place=theirs: mlperf_again(paths, place))
        rows["again"].append((again, seconds(lambda place=ours: topfive_batches(paths, place, tensors=True))))
    check = topfive_batches(paths, scratch / "topfive0", tensors=True)
    if not np.array_equal(np.concatenate(check), np.concatenate(mlperf_again(paths, scratch / "mlperf0"))):
        raise SystemExit("the two ways give different bits")
    sys.stdout.write(f"{'':<22} {'mlperf img/CPU-s':>17} {'topfive img/CPU-s':>18} {'ratio':>6}\n")
    for name, pairs in rows.items():
        theirs_rate, ours_rate = (
            len(paths) / statistics.median(column) for column in zip(*pairs, strict=True)
        )
        ratio = statistics.median(first / second for first, second in pairs)
        sys.stdout.write(f"{name:<22} {theirs_rate:17.0f} {ours_rate:18.0f} {ratio:6.2f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="topfive-bench-") as scratch:
        paths = write_photographs(Path(scratch) / "pictures", arguments.pictures)
        measure(paths, arguments.rounds, Path(scratch))


if __name__ == "__main__":
    main()
