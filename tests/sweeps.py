"""Sweeps for the tests: plans, lists, shards and records made by hand, and real ones in processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from topfive.datasets import Listing, Picture
from topfive.images import procedural
from topfive.records import SweepRecord, read_sweep
from topfive.sweep.merge import make_record
from topfive.sweep.plan import Plan
from topfive.sweep.shards import ShardResult

PLAN = Plan(
    model="m",
    target="cpu",
    quant="int8",
    artifact="a",
    source_sha256="",
    simulated="",
    profile="pocket64",
    size=(64, 64),
    crop="c",
    classes=10,
    background=False,
    batch=8,
    shards=2,
    dataset="d",
    root="/d",
    form="map",
    labels_from="/d/val.txt",
    first_label=0,
    listed=4,
    pictures=4,
    pictures_sha256="p",
    made_by=(("decoder", "x"),),
)


def listing(labels=(1, 1, 1, 1), **options) -> Listing:
    pictures = tuple(Picture(n, f"{n}.jpg", label) for n, label in enumerate(labels))
    return Listing("d", "/d", "map", "/d/val.txt", 0, 0, len(labels), pictures, **options)


def result(number=0, indices=(0, 1), top5=None, labels=None, plan="id", **about) -> ShardResult:
    count = len(indices)
    return ShardResult(
        plan=plan,
        number=number,
        indices=np.array(indices, np.int32),
        labels=np.array(labels if labels is not None else [1] * count, np.int32),
        top5=np.array(top5 if top5 is not None else [[1, 2, 3, 4, 5]] * count, np.int32).reshape(count, 5),
        sha256=np.array([[index % 256] * 32 for index in indices], np.uint8).reshape(count, 32),
        stamps=np.zeros((count, 16), np.uint8),
        seconds={"run": 1.0},
        about={
            "started": 10.0 * number,
            "ended": 10.0 * number + 5,
            "share": 1.0,
            "host": "here",
            "process": 1,
            "peak_bytes": 1000,
            "runner": {"threads": 1},
            **about,
        },
    )


def whole() -> list[ShardResult]:
    return [result(0, [0, 1]), result(1, [2, 3], [[1, 2, 3, 4, 5], [2, 1, 3, 4, 5]])]


def record(
    bests, labels=None, identity="now", created="2026-01-02T00:00:00+00:00", plan=PLAN, **changes
) -> SweepRecord:
    labels = [1] * len(bests) if labels is None else labels
    top5 = [[best, 20, 21, 22, 23] for best in bests]
    plan = replace(plan, shards=1, pictures=len(bests), **changes)
    return replace(
        make_record(plan, identity, [result(0, range(len(bests)), top5, labels)], machine={}, command=""),
        created=created,
    )


def mlperf_accuracy(log, val_map, dtype):
    """What accuracy-imagenet.py of the MLPerf inference reference does (facts: lines split at blanks, the
    first answer of each qsl_idx counts, --dtype float32 by default)."""
    truth = [(line.split()[0], int(line.split()[1])) for line in val_map.read_text().splitlines()]
    seen, good = set(), 0
    for entry in json.loads(log.read_text()):
        if entry["qsl_idx"] in seen:
            continue
        seen.add(entry["qsl_idx"])
        found = int(np.frombuffer(bytes.fromhex(entry["data"]), dtype)[0])
        good += truth[entry["qsl_idx"]][1] == found
    return good, len(seen)


def magicmind_accuracy(folder):
    """What compute_top1_and_top5.py does: whole lines compared, five lines a picture."""
    labels = (folder / "eval_labels.txt").read_text().splitlines()
    top1 = (folder / "eval_result_1.txt").read_text().splitlines()
    top5 = (folder / "eval_result_5.txt").read_text().splitlines()
    right1 = sum(label == best for label, best in zip(labels, top1, strict=True))
    right5 = sum(label in top5[5 * i : 5 * i + 5] for i, label in enumerate(labels))
    return right1 / len(labels), right5 / len(labels)


FAULTS = Path(__file__).parent / "faults"
REPOSITORY = Path(__file__).parent.parent
CASE = ("pocket_fire", "--quant", "int8")


class Sweeping:
    """Commands over one small picture set, in processes of their own."""

    def __init__(self, folder: Path, cache: Path, pictures: int = 24) -> None:
        self.folder, self.cache = folder, cache
        self.set = folder / "set"
        self.records = folder / "records"
        self.pictures = pictures
        self.mark = folder / "mark"
        procedural.write_flat(self.set, pictures, split="sweep tests")

    def name(self, number: int) -> str:
        """The file of a picture, from 0."""
        return f"ILSVRC2012_val_{number + 1:08d}.JPEG"

    def start(self, *arguments: str, fault: str = "") -> subprocess.Popen[str]:
        """Start a command; `fault` as in tests/faults."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))},
            "PYTHONPATH": str(FAULTS),
            "SWEEP_FAULT": fault,
            "SWEEP_FAULT_MARK": str(self.mark),
            "TOPFIVE_CACHE": str(self.cache),
            "TOPFIVE_RECORDS": str(self.records),
            "TOPFIVE_THREADS": "2",
        }
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *more: str, shards: int = 8) -> tuple[str, ...]:
        """`topfive sweep` over the set."""
        return ("topfive", "sweep", *CASE, "--imagenet", str(self.set), "--shards", str(shards), *more)

    def session(self, *more: str, shards: int = 8) -> tuple[str, ...]:
        """`pytest -m accuracy` over the set."""
        return (
            *("pytest", "bench/test_accuracy.py", "-m", "accuracy", "-p", "no:cacheprovider"),
            *("--models", "pocket_fire", "--targets", "cpu", "--quant", "int8"),
            *("--imagenet", str(self.set), "--shards", str(shards), "--sweep-progress", "0", *more),
        )

    def run(self, *arguments: str, fault: str = "") -> tuple[int, str, str]:
        """Run a command to its end: exit code, output, errors."""
        process = self.start(*arguments, fault=fault)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def done(self) -> dict[int, dict[str, Any]]:
        """The shards that are on disk now, by number."""
        found = {}
        for plan in self.cache.glob("sweeps/*/plan.json"):
            if json.loads(plan.read_text())["plan"]["root"] == str(self.set):
                for path in plan.parent.glob("shard-*.json"):
                    stored = json.loads(path.read_text())
                    found[stored["number"]] = stored
        return found

    def wait_for(self, shards: int, process: subprocess.Popen[str]) -> dict[int, dict[str, Any]]:
        """Wait until so many shards are on disk and the command still runs."""
        for _ in range(60_000):
            found = self.done()
            if len(found) >= shards:
                assert process.poll() is None, "the sweep ended before it could be killed"
                return found
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        raise AssertionError("the sweep does not get on")

    def record(self) -> SweepRecord:
        """The only record that was written."""
        (path,) = self.records.glob("sweeps/*/*/*.json")
        return read_sweep(path)

    def numbers(self) -> tuple[Any, ...]:
        """All that must be the same however often the sweep was interrupted."""
        kept = self.record()
        arrays = (kept.indices, kept.labels, kept.top5, kept.digests)
        return (kept.contents_sha256, *(array.tobytes() for array in arrays))


def gone(process: int) -> bool:
    """Whether a process has ended; waits for it a while."""
    for _ in range(6000):
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.005)
    return False
