"""Sweeps against MLPerf's way, and against themselves: images a second and CPU-seconds an image, end to end.

    python bench/sweep_speed.py [SECTION ...] [--rounds 3] [--pictures 500] [--many 5000]

Sections: resnet50 small modes workers shards memory. Every run is a process of its own, start-up included;
the two sides of a comparison alternate, and medians of ratios of one round are printed. Goals in brackets.
Pictures are of ImageNet's sizes, drawn. Needs the extra opencv. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import topfive
from photographs import write_photographs
from topfive.records import read_sweep
from topfive.targets.onnxruntime_runner import MODEL_FILE

PR_SET_CHILD_SUBREAPER = 36
# Modules are compiled once, as where topfive is installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
HERE = Path(__file__).parent
RESNET, TINY = "light_resnet50", "tiny_gap"
CLASSES = 1000
CARD = """
name = "tiny_gap"
description = "global average and one matrix: next to nothing, so that the harness shows"
trained = false
[source]
kind = "file"
path = "tiny_gap.onnx"
[input]
size = [224, 224]
profile = "mlperf_vgg"
[output]
kind = "logits"
classes = 1000
[pictures]
set = "pocket100"
count = 1
"""


@dataclass(frozen=True)
class Run:
    """What one process took: wall and CPU seconds, of it and its children."""

    wall: float
    cpu: float
    output: str


def adopt_orphans() -> None:
    """Be the parent of what children leave behind (Linux): a fork server's processor time counts, too."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run_process(*arguments: str) -> Run:
    """Run this interpreter with arguments, to its end and that of all that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, done.stdout)


class Place:
    """A scratch folder with pictures, the tiny model, and a cache that can be emptied."""

    def __init__(self, scratch: Path, pictures: int) -> None:
        self.scratch, self.pictures = scratch, pictures
        self.folder = scratch / "pictures"
        self.cache, self.npy = scratch / "cache", scratch / "npy"
        paths = write_photographs(self.folder, pictures)
        labels = np.random.default_rng(0).integers(0, CLASSES, pictures)
        lines = [f"{path.name}\t{label}\n" for path, label in zip(paths, labels, strict=True)]
        (self.folder / "val_map.txt").write_text("".join(lines))
        (scratch / "cards").mkdir(exist_ok=True)
        (scratch / "cards" / "tiny_gap.toml").write_text(CARD)
        onnx.save(tiny_gap(), scratch / "cards" / "tiny_gap.onnx")

    def model_file(self, model: str) -> Path:
        """The compiled float32 model, built beforehand: neither side's time."""
        cards = [self.scratch / "cards"]
        artifact = topfive.build(model, target="cpu", quant="force_float32", cards=cards, cache=self.cache)
        return artifact.path / MODEL_FILE

    def forget(self, *, crops: bool = True) -> None:
        """Empty what earlier runs kept: records, and the pictures that are preprocessed."""
        shutil.rmtree(self.scratch / "records", ignore_errors=True)
        if crops:
            shutil.rmtree(self.cache / "crops", ignore_errors=True)
            shutil.rmtree(self.npy, ignore_errors=True)

    def mlperf(self, model: str, count: int) -> Run:
        """The peer's way, a process of its own."""
        script = str(HERE / "mlperf_way.py")
        return run_process(
            script, str(self.model_file(model)), str(self.folder), str(self.npy), "--count", str(count)
        )

    def sweep(
        self, model: str, count: int, *more: str, quant: str = "force_float32", workers: int = 2
    ) -> Run:
        """`topfive sweep`, a process of its own."""
        return run_process(
            *("-m", "topfive", "sweep", model, "--quant", quant, "--imagenet", str(self.folder)),
            *("--count", str(count), "--workers", str(workers), "--cards", str(self.scratch / "cards")),
            *(
                "--artifact-cache",
                str(self.cache),
                "--records",
                str(self.scratch / "records"),
                "--json",
                *more,
            ),
        )

    def session(self, model: str, count: int, workers: int) -> Run:
        """pytest -m accuracy, a thread each; wall: of the shards, without what comes before and after."""
        self.forget(crops=False)
        run = run_process(
            *(
                "-m",
                "pytest",
                str(HERE / "test_accuracy.py"),
                "-m",
                "accuracy",
                "-q",
                "-p",
                "no:cacheprovider",
            ),
            *("-n", str(workers), "--threads", "1", "--models", model, "--targets", "cpu"),
            *("--quant", "force_float32", "--imagenet", str(self.folder), "--count", str(count)),
            *("--cards", str(self.scratch / "cards"), "--artifact-cache", str(self.cache)),
            *("--records", str(self.scratch / "records")),
        )
        (record,) = (self.scratch / "records").glob("sweeps/*/*/*.json")
        return replace(run, wall=count / read_sweep(record).images_per_s)


def tiny_gap() -> onnx.ModelProto:
    """float32 [batch, 3, 224, 224] to [batch, 1000]."""
    weights = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def say(name: str, count: int, pairs: list[tuple[Run, Run]], goal: str) -> None:
    """A line: both sides' medians, and the median ratio of images a second (theirs first)."""
    (wall, cpu), (our_wall, our_cpu) = (
        (statistics.median(run.wall for run in side), statistics.median(run.cpu for run in side))
        for side in zip(*pairs, strict=True)
    )
    ratio = statistics.median(first.wall / second.wall for first, second in pairs)
    sys.stdout.write(
        f"{name:<44} {count / wall:8.1f} {count / our_wall:8.1f} {ratio:7.2f} {goal:>8} "
        f"{1e3 * cpu / count:8.2f} {1e3 * our_cpu / count:8.2f}\n"
    )
    sys.stdout.flush()


def rounds_of(rounds: int, first: object, second: object) -> list[tuple[Run, Run]]:
    """Pairs of runs, in alternating order."""
    pairs = []
    for number in range(rounds):
        order = [first, second] if number % 2 else [second, first]
        found = {call: call() for call in order}  # type: ignore[operator]
        pairs.append((found[first], found[second]))
    return pairs


def against_mlperf(place: Place, model: str, count: int, rounds: int, goals: tuple[str, str]) -> None:
    def theirs() -> Run:
        shutil.rmtree(place.npy, ignore_errors=True)
        return place.mlperf(model, count)

    def ours() -> Run:
        place.forget(crops=False)
        shutil.rmtree(place.cache / "crops", ignore_errors=True)
        return place.sweep(model, count)

    place.model_file(model)
    say(f"{model}, {count} fresh: MLPerf's way, sweep", count, rounds_of(rounds, theirs, ours), goals[0])
    if goals[1]:
        pairs = rounds_of(rounds, lambda: place.mlperf(model, count), lambda: place.sweep(model, count))
        say(f"{model}, {count} from the cache", count, pairs, goals[1])


def modes(place: Place, count: int, rounds: int) -> None:
    names = ("force_float32", "force_float16", "int8")
    for name in names:
        place.sweep(TINY, 8, quant=name)

    def apart(*more: str) -> Run:
        runs = [place.sweep(TINY, count, *more, quant=name) for name in names]
        return Run(sum(run.wall for run in runs), sum(run.cpu for run in runs), "")

    def together() -> Run:
        place.forget()
        return place.sweep(TINY, count, quant=",".join(names))

    say(
        "three modes: three runs, decoding each; one sweep",
        3 * count,
        rounds_of(rounds, lambda: apart("--no-cache"), together),
        "[2]",
    )

    def apart_packed() -> Run:
        place.forget()
        return apart()

    say(
        "three modes: three runs sharing the pack; one",
        3 * count,
        rounds_of(rounds, apart_packed, together),
        "",
    )


def workers(place: Place, count: int, rounds: int) -> None:
    place.model_file(RESNET)
    for model, pictures in ((RESNET, min(count, 100)), (TINY, count)):
        place.sweep(model, pictures)  # the pack is warm: what is compared is running
        pairs = rounds_of(
            rounds,
            lambda model=model, pictures=pictures: place.session(model, pictures, 1),
            lambda model=model, pictures=pictures: place.session(model, pictures, 2),
        )
        say(f"{model}: pytest -n 1, -n 2, shards alone", pictures, pairs, "[1.8]")


def shards(place: Place, count: int, rounds: int) -> None:
    place.sweep(TINY, count, workers=1)
    pairs = rounds_of(
        rounds,
        lambda: place.sweep(TINY, count, "--shards", str(max(1, count // 500)), workers=1),
        lambda: place.sweep(TINY, count, "--shards", "1", workers=1),
    )
    cost = statistics.median(many.cpu / one.cpu for many, one in pairs) - 1
    say(f"{TINY}: shards of 500, one shard", count, pairs, "")
    sys.stdout.write(f"  sharding costs {100 * cost:.1f} % of CPU time [under 3]\n")


def memory(place: Place, few: int, many: int) -> None:
    for count in (few, many):
        place.forget()
        (row,) = json.loads(place.sweep(TINY, count).output)
        sys.stdout.write(
            f"peak of a worker, {TINY}, {count} pictures: {row['timing']['peak_bytes'] / 1e6:.0f} MB\n"
        )


def main() -> None:
    sections = ("resnet50", "small", "modes", "workers", "shards", "memory")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--many", type=int, default=5000)
    arguments = parser.parse_args()
    chosen = arguments.sections or sections
    adopt_orphans()
    few, many, rounds = arguments.pictures, arguments.many, arguments.rounds
    with tempfile.TemporaryDirectory(prefix="topfive-bench-") as scratch:
        place = Place(Path(scratch), many if {"small", "shards", "memory"} & set(chosen) else few)
        sys.stdout.write(
            f"{'':<44} {'img/s':>8} {'img/s':>8} {'ratio':>7} {'goal':>8} {'CPU ms':>8} {'CPU ms':>8}\n"
        )
        if "resnet50" in chosen:
            against_mlperf(place, RESNET, few, rounds, ("[1.2]", ""))
        if "small" in chosen:
            against_mlperf(place, TINY, many, rounds, ("[1.8]", "[2.5]"))
        if "modes" in chosen:
            modes(place, few, rounds)
        if "workers" in chosen:
            workers(place, few, rounds)
        if "shards" in chosen:
            shards(place, many, rounds)
        if "memory" in chosen:
            memory(place, few, many)


if __name__ == "__main__":
    main()
