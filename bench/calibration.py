"""What calibration costs: this package's against onnxruntime.quantization's, on the same pictures.

    TOPFIVE_DATA=... python bench/calibration.py [--pairs N] [--pictures N] [--methods ...]

Each calibration runs in a process of its own, ours and theirs by turns (A B, B A, ...), so that both meet the
same machine. Printed: processor seconds from the float model to its ranges, reading and preparing the
pictures included, starting Python and importing not; the largest resident memory of the process; medians of
the ratios of neighbours. `entropy` is TensorRT's (2048 bins, 128 levels) against onnxruntime's entropy as it
is by default (128 bins, which leaves it one candidate); `minmax` against its MinMax.
Goals: entropy at least 3 times less processor time a picture, flat memory under 700 MB; min-max not slower.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = "mobilenetv2-1.0-224-tf2ptq.onnx"
PROFILE, SIZE = "tf", (224, 224)
PEERS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def calibrate(who: str, method: str, count: int) -> dict[str, float]:
    """One calibration in this process."""
    import onnx
    from onnxruntime.quantization import calibrate as peer

    from topfive.images import load_profile, preprocess_batch
    from topfive.quantize.calibration import Method, measure
    from topfive.quantize.optimize import optimize

    data = Path(os.environ["TOPFIVE_DATA"])
    model = optimize(onnx.load(data / "models" / MODEL))
    pictures = sorted((data / "images").glob("*.JPEG"))[:count]
    profile = load_profile(PROFILE)

    class Files:
        names = [path.name for path in pictures]  # noqa: RUF012

        def load(self, index: int):
            return preprocess_batch(pictures[index : index + 1], profile, SIZE)

    class Reader(peer.CalibrationDataReader):
        def __init__(self) -> None:
            self.indices = iter(range(len(pictures)))

        def get_next(self):
            index = next(self.indices, None)
            return None if index is None else {model.graph.input[0].name: Files().load(index)}

    start = processor_seconds()
    if who == "ours":
        found = measure(model, Files(), Method(method, symmetric=True)).ranges
    else:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            file = Path(folder) / "model.onnx"
            onnx.save(model, file)
            calibrator = peer.create_calibrator(
                file,
                augmented_model_path=f"{folder}/augmented.onnx",
                calibrate_method=peer.CalibrationMethod[PEERS[method]],
            )
            calibrator.collect_data(Reader())
            found = calibrator.compute_data().data
    spent = processor_seconds() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": spent, "megabytes": peak, "tensors": len(found)}


def in_a_process(who: str, method: str, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", who, method, str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(method: str, count: int, pairs: int) -> str:
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for number in range(pairs):
        order = ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours")
        for who in order:
            runs[who].append(in_a_process(who, method, count))
            sys.stderr.write(f"{method} {number + 1}/{pairs} {who}: {runs[who][-1]}\n")
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(runs["ours"], runs["theirs"], strict=True)]
    ours, theirs = (
        [statistics.median(run[key] for run in runs[who]) for key in ("seconds", "megabytes")]
        for who in ("ours", "theirs")
    )
    return (
        f"{method:<11} {count:8} {pairs:5} {ours[0]:8.2f} {theirs[0]:10.2f} {1e3 * ours[0] / count:9.1f} "
        f"{1e3 * theirs[0] / count:11.1f} {statistics.median(ratios):7.2f} {min(ratios):7.2f} "
        f"{max(ratios):7.2f} {ours[1]:8.0f} {theirs[1]:10.0f}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--pictures", type=int, default=64, help="pictures of a run (default: 64)")
    parser.add_argument("--methods", nargs="*", default=["entropy", "minmax"], choices=sorted(PEERS))
    parser.add_argument("--child", nargs=3, metavar=("WHO", "METHOD", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        who, method, count = arguments.child
        sys.stdout.write(json.dumps(calibrate(who, method, int(count))))
        return
    if not Path(os.environ.get("TOPFIVE_DATA", "")).joinpath("models", MODEL).is_file():
        raise SystemExit(f"TOPFIVE_DATA must name a folder with models/{MODEL} and images/")
    sys.stdout.write(
        f"{'method':<11} {'pictures':>8} {'pairs':>5} {'ours s':>8} {'theirs s':>10} {'ours ms':>9} "
        f"{'theirs ms':>11} {'ratio':>7} {'least':>7} {'most':>7} {'ours MB':>8} {'theirs MB':>10}\n"
    )
    for method in arguments.methods:
        sys.stdout.write(compare(method, arguments.pictures, arguments.pairs) + "\n")
        sys.stdout.flush()
    few, many = (in_a_process("ours", "entropy", n) for n in (arguments.pictures // 4, arguments.pictures))
    sys.stdout.write(
        f"memory of entropy: {few['megabytes']:.0f} MB on {arguments.pictures // 4} pictures, "
        f"{many['megabytes']:.0f} MB on {arguments.pictures}\n"
    )


if __name__ == "__main__":
    main()
