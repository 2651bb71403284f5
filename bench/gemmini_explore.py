"""How long a thousand hardware designs take: modelled cycles of one network on each.

    python bench/gemmini_explore.py [--model light_resnet50] [--batch 1] [--processes N]

Goal: under 60 s of wall time for 1,000 design points of ResNet-50 on two cores. The network is built first
and not timed. Wall and processor seconds are of the exploration alone, its worker processes included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import onnx

import topfive
from topfive.sessions import default_threads
from topfive.targets.gemmini.cycles import model_layers
from topfive.targets.gemmini.explore import explore
from topfive.targets.gemmini.target import INT8_FILE

KIB = 1024
DIMS = (4, 8, 16, 32)
SCRATCHPADS = tuple(size * KIB for size in (64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048))
ACCUMULATORS = tuple(size * KIB for size in (16, 32, 64, 128, 256))
BUSES = (4, 8, 16, 32, 64)
GOAL = "goal: 1,000 points of ResNet-50 under 60 s on two cores"


def processor_seconds() -> float:
    """Of this process and of its finished children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Print how many points there were and what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="light_resnet50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--processes", type=int, default=default_threads())
    arguments = parser.parse_args()
    artifact = topfive.build(arguments.model, target="gemmini_sim", quant="int8")
    layers = model_layers(onnx.load(artifact.path / INT8_FILE), arguments.batch)
    wall, cpu = time.perf_counter(), processor_seconds()
    found = explore(
        layers,
        dims=DIMS,
        scratchpads=SCRATCHPADS,
        accumulators=ACCUMULATORS,
        buses=BUSES,
        processes=arguments.processes,
    )
    wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
    points, refused = len(found.points), len(found.refused)
    sys.stdout.write(
        f"{arguments.model}, batch {arguments.batch}, {arguments.processes} processes\n"
        f"{points + refused} designs, {points} of them modelled, {refused} left out as no hardware, "
        f"{len(found.front)} on the Pareto front\n"
        f"{wall:.1f} s wall, {cpu:.1f} s of processors, "
        f"{1e3 * wall / (points + refused):.1f} ms a design ({GOAL})\n"
    )


if __name__ == "__main__":
    main()
