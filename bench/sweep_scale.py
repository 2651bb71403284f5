"""A sweep of ImageNet's size: 50,000 drawn pictures through a bundled model, start to finish.

    python bench/sweep_scale.py [--images N] [--model pocket_mobilenet] [--target gemmini_sim] [--keep DIR]

Draws the pictures (not timed as part of the sweep), builds the model, then runs `topfive sweep` once without
any packed pictures and once with them, and prints wall time, CPU-seconds of all processes, the peak memory of
a worker, and the accuracy. --keep keeps pictures and cache in DIR, and uses what is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import topfive
from sweep_speed import Run, adopt_orphans, run_process


def sweep(folder: Path, model: str, target: str, quant: str, workers: int) -> Run:
    return run_process(
        *("-m", "topfive", "sweep", model, "--targets", target, "--quant", quant, "--json"),
        *("--imagenet", str(folder / "pictures"), "--workers", str(workers)),
        *("--artifact-cache", str(folder / "cache"), "--records", str(folder / "records")),
    )


def say(name: str, run: Run) -> None:
    (row,) = json.loads(run.output)
    images, top1 = row["images"], row["top1"]
    peak, crew = row["timing"]["peak_bytes"] / 1e6, row["timing"]["workers"]
    accuracy = f"{100 * top1['fraction']:.2f} % ({100 * top1['low']:.2f} to {100 * top1['high']:.2f})"
    five = f"{100 * row['top5']['fraction']:.2f} %"
    sys.stdout.write(
        f"{name}: {images:,} images in {run.wall:.1f} s ({images / run.wall:.0f} images/s), {run.cpu:.1f} "
        f"CPU-s, {peak:.0f} MB a worker, {crew} workers; top-1 {accuracy}, top-5 {five}\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--model", default="pocket_mobilenet")
    parser.add_argument("--target", default="gemmini_sim")
    parser.add_argument("--quant", default="int8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="topfive-bench-") as scratch:
        folder = arguments.keep or Path(scratch)
        if not (folder / "pictures").exists():
            count = ("--images", str(arguments.images), "--workers", str(arguments.workers))
            made = run_process("-m", "topfive", "dataset", "make", str(folder / "pictures"), *count)
            sys.stdout.write(f"{arguments.images:,} pictures drawn in {made.wall:.0f} s\n")
        what = (arguments.model, arguments.target, arguments.quant)
        topfive.build(what[0], target=what[1], quant=what[2], cache=folder / "cache")
        shutil.rmtree(folder / "cache" / "crops", ignore_errors=True)
        say("fresh", sweep(folder, *what, arguments.workers))
        say("from the packed pictures", sweep(folder, *what, arguments.workers))


if __name__ == "__main__":
    main()
