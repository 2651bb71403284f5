"""MLPerf's reference flow, written with plain cv2 and onnxruntime: what sweep_speed.py compares with.

    python bench/mlperf_way.py MODEL.onnx FOLDER CACHE [--count N] [--threads 2] [--batch 32]

As the reference app does (vision/classification_and_detection, Offline, accuracy): each picture is
preprocessed once and saved with np.save unless its file is there, all are loaded as float32 and held,
worker threads take batches from a queue, copy the pictures of a batch into one array and run one session with
default options.
LoadGen itself is left out (a few microseconds a picture). Prints the accuracy.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from preprocess_speed import mlperf_picture


def preprocessed(path: Path, cache: Path) -> Path:
    """The .npy of a picture, made if need be."""
    place = cache / f"{path.name}.npy"
    if not place.exists():
        np.save(place, mlperf_picture(path))
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    lines = (arguments.folder / "val_map.txt").read_text().splitlines()[: arguments.count]
    entries = [(arguments.folder / line.split()[0], int(line.split()[1])) for line in lines]
    with ThreadPoolExecutor(arguments.threads) as pool:
        places = list(pool.map(lambda entry: preprocessed(entry[0], arguments.cache), entries))
    loaded = [np.load(place) for place in places]
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    waiting: queue.Queue[range | None] = queue.Queue(maxsize=4 * arguments.threads)
    right = [0] * arguments.threads

    def work(number: int) -> None:
        while (part := waiting.get()) is not None:
            batch = np.array([loaded[index] for index in part])
            found = session.run([output], {name: batch})[0].argmax(axis=1)
            right[number] += sum(int(found[n]) == entries[index][1] for n, index in enumerate(part))

    crew = [threading.Thread(target=work, args=(number,)) for number in range(arguments.threads)]
    for thread in crew:
        thread.start()
    for start in range(0, len(entries), arguments.batch):
        waiting.put(range(start, min(start + arguments.batch, len(entries))))
    for _ in crew:
        waiting.put(None)
    for thread in crew:
        thread.join()
    sys.stdout.write(f"good={sum(right)}, total={len(entries)}\n")


if __name__ == "__main__":
    main()
