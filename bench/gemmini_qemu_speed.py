"""How fast `gemmini_qemu` multiplies: million products a CPU-second under QEMU, layer by layer.

    python bench/gemmini_qemu_speed.py [--images 3] [--json]

Each layer is a program of its own. CPU time is the emulator process's, the program's start taken off; reading
the picture, bringing it into channels-last order and writing the result are in it. Not wall time: the
machine may be shared. The seed's column is its Release build (-O3) under QEMU on another machine, for scale.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from topfive import targets
from topfive.targets.gemmini_qemu import emulator, instructions, toolchain
from topfive.targets.gemmini_qemu.program import emit


@dataclass(frozen=True)
class Layer:
    """A square convolution of ResNet-50 (or, depthwise, of MobileNet v2), padded to keep its size."""

    name: str
    size: int
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    depthwise: bool = False
    seed: str = ""


LAYERS = (
    Layer("7x7/2 224x224 3->64", 224, 3, 64, 7, 2),
    Layer("3x3 56x56 64->64", 56, 64, 64, 3, seed="347-349"),
    Layer("1x1 56x56 64->256", 56, 64, 256, 1, seed="172-179"),
    Layer("1x1 56x56 256->64", 56, 256, 64, 1),
    Layer("3x3 14x14 256->256", 14, 256, 256, 3, seed="377-412"),
    Layer("1x1 7x7 2048->512", 7, 2048, 512, 1),
    Layer("depthwise 3x3 56x56 144", 56, 144, 144, 3, depthwise=True),
)


def model_of(layer: Layer) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    groups = layer.channels if layer.depthwise else 1
    shape = (layer.filters, layer.channels // groups, layer.kernel, layer.kernel)
    # Weights spread as a trained layer's: a tenth of the range, one at its end.
    weights = np.clip(np.rint(random.normal(0, 13, shape)), -127, 127).astype(np.int8)
    weights.flat[0] = 127
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "w": weights,
        "scale": np.float32(40 / (50 * 13 * np.sqrt(weights[0].size))),
        "bias": random.integers(-500, 500, layer.filters).astype(np.int32),
    }
    inputs = ["x", "one", "zero", "w", "scale", "zero", "one", "zero", "bias"]
    pad = [layer.kernel // 2] * 4
    conv = helper.make_node("QLinearConv", inputs, ["c"], group=groups, pads=pad, strides=[layer.stride] * 2)
    graph = helper.make_graph(
        [conv, helper.make_node("Relu", ["c"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.INT8, (1, layer.channels, layer.size, layer.size))],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cpu_seconds(program: Path, picture: bytes, images: int) -> float:
    source = program.parent / "input.bin"
    source.write_bytes(picture * images)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    emulator.run_program(program, [str(source), str(program.parent / "output.bin")], images, 600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(layer: Layer, images: int) -> dict[str, str | float]:
    program = emit(model_of(layer), layer.name)
    with tempfile.TemporaryDirectory(prefix="topfive-speed-") as name:
        folder = Path(name)
        toolchain.build(program, folder)
        shape = program.layout["input"]["shape"]
        picture = np.random.default_rng(1).integers(-50, 51, shape).astype(np.int8).tobytes()
        file = folder / toolchain.PROGRAM
        start = cpu_seconds(file, picture, 0)
        # The least of three: another process can only make it longer.
        seconds = min(cpu_seconds(file, picture, images) - start for _ in range(3)) / images
        retired = instructions.per_image(file, program.layout)
    products = program.layout["products"]
    return {
        "layer": layer.name,
        "million_products": products / 1e6,
        "cpu_seconds": seconds,
        "million_products_per_cpu_second": products / seconds / 1e6,
        "instructions_per_product": retired / products,
        "seed": layer.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="gemmini_qemu's products a CPU-second")
    parser.add_argument("--images", type=int, default=3, help="pictures a run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if reason := targets.get("gemmini_qemu").probe():
        raise SystemExit(reason)
    rows = [measure(layer, options.images) for layer in LAYERS]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'layer':26}{'MMAC':>8}{'CPU s':>9}{'MMAC/CPU-s':>12}{'instr/MAC':>11}{'seed':>10}")
    for row in rows:
        print(
            f"{row['layer']:26}{row['million_products']:8.1f}{row['cpu_seconds']:9.4f}"
            f"{row['million_products_per_cpu_second']:12.0f}{row['instructions_per_product']:11.2f}{row['seed']:>10}"
        )


if __name__ == "__main__":
    main()
