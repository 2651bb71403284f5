"""Single layers as Gemmini's instructions against the numpy arithmetic: many layers in one program each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from topfive import targets
from topfive.errors import CompileError
from topfive.targets.base import Target
from topfive.targets.gemmini.arithmetic import scale_and_saturate
from topfive.targets.gemmini_qemu.program import emit
from topfive.targets.gemmini_spike.kit import kit

from layer_graphs import MICROSOFT, Layers, random_conv
from simulators import REAL, differences, simulated, use_simulator

DATAFLOWS = ("ws", "os")
flows = pytest.mark.parametrize("dataflow", DATAFLOWS)


def target(dataflow: str) -> Target:
    return targets.get("gemmini_spike").configured({"dataflow": dataflow})


def check(
    layers: Layers, dataflow: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *batches: np.ndarray
) -> dict[str, np.ndarray]:
    """Bits of every layer, and the instructions of each as its tiles predict them."""
    use_simulator(monkeypatch)
    machine = target(dataflow)
    artifact = layers.build(machine, folder)
    given = batches or (layers.codes(1, *layers.shape[1:]),)
    with machine.open(artifact, threads=1) as runner:
        for batch in given:
            seen = layers.compare(runner, batch)
        if not REAL:
            monkeypatch.setenv("TOPFIVE_GEMMINI_COUNTS", str(folder / "counts"))
            runner.run(given[0])
            assert differences(folder / "counts", artifact.meta["gemmini_layers"], len(given[0])) == []
    return seen


def square_conv(layers: Layers, x: str, shape: tuple[int, int], kernel: int, **attrs: int) -> str:
    """A convolution of one kernel, stride, padding and dilation; shape: (output, input) channels."""
    groups = attrs.pop("group", 1)
    spread = 1.5 / (40 * np.sqrt(shape[1] * kernel * kernel))
    sides = {
        "strides": [attrs.pop("stride", 1)] * 2,
        "pads": [attrs.pop("padding", 0)] * 4,
        "dilations": [attrs.pop("dilation", 1)] * 2,
    }
    assert not attrs
    bias = layers.random.integers(-3000, 3000, shape[0]).astype(np.int32)
    weights = layers.codes(*shape, kernel, kernel)
    return layers.conv(weights, spread, bias, x=x, group=groups, kernel_shape=[kernel] * 2, **sides)


FORMS = [(1, 9, "ws"), (6, 8, "os"), (20, 7, "ws"), (20, 7, "os")]


@simulated
@pytest.mark.parametrize(("channels", "size", "dataflow"), FORMS, ids=["1-ws", "6-os", "20-ws", "20-os"])
def test_convolutions_of_every_form(
    channels: int, size: int, dataflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers((1, channels, size, size + 1), seed=channels)
    for _ in range(25):
        random_conv(layers, channels, size)
    check(layers, dataflow, tmp_path, monkeypatch)


@simulated
@flows
def test_convolutions_of_many_tiles(dataflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More outputs than half the accumulator holds, more channels than half the scratchpad does."""
    layers = Layers((1, 3, 41, 38), seed=2)
    stem = square_conv(layers, "x", (40, 3), 5, padding=2)
    layers.add("Relu", [stem])
    wide = square_conv(layers, stem, (90, 40), 3, stride=2, padding=1)
    square_conv(layers, wide, (24, 90), 3, dilation=2, padding=2)
    pointwise = square_conv(layers, wide, (330, 90), 1)
    square_conv(layers, pointwise, (35, 330), 3, stride=3)
    last = square_conv(layers, stem, (33, 40), 1, stride=2)
    layers.add("Clip", [last, layers.constant(np.int8(0)), layers.constant(np.int8(50))])
    layers.conv(layers.codes(40, 1, 3, 3), 0.001, x=stem, group=40, kernel_shape=[3, 3], pads=[1] * 4)
    check(layers, dataflow, tmp_path, monkeypatch)


@simulated
@pytest.mark.parametrize("size", [(14, 10), (13, 14)], ids=["even", "odd"])
def test_pixels_that_a_stride_skips(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers((1, 70, *size), seed=4)
    square_conv(layers, "x", (30, 70), 1, stride=2)
    square_conv(layers, "x", (10, 35), 1, stride=2, group=2)
    layers.conv(layers.codes(70, 1, 1, 1), 0.002, group=70, kernel_shape=[1, 1], strides=[2, 2])
    check(layers, "ws", tmp_path, monkeypatch)


@simulated
@flows
def test_depthwise_convolutions(dataflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scale for all channels, one a channel, and several outputs a channel."""
    layers = Layers((1, 21, 15, 18), seed=6)
    random = layers.random
    for stride, kernel, padding in ((1, 3, 1), (2, 3, 1), (1, 5, 2), (2, 1, 0), (1, 2, 0)):
        for scale in (0.003, random.uniform(0.0005, 0.01, 21).astype(np.float32)):
            window = {"strides": [stride] * 2, "pads": [padding] * 4, "kernel_shape": [kernel] * 2}
            bias = random.integers(-9000, 9000, 21).astype(np.int32)
            layers.conv(layers.codes(21, 1, kernel, kernel), scale, bias, group=21, **window)
    for scale in (0.003, random.uniform(0.0005, 0.01, 42).astype(np.float32)):
        layers.conv(layers.codes(42, 1, 3, 3), scale, group=21, kernel_shape=[3, 3])
    layers.conv(layers.codes(21, 1, 3, 3), 0.003, group=21, kernel_shape=[3, 3], dilations=[2, 2])
    check(layers, dataflow, tmp_path, monkeypatch)


POOLS = [(2, 2, 0, 1), (3, 2, 1, 1), (3, 3, 0, 2), (2, 1, 1, 1), (3, 1, 1, 3)]


@simulated
def test_pools_are_done_while_storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of negative maps too, whose padded positions count as 0; the unpooled results are still seen."""
    layers = Layers((1, 5, 30, 27), seed=8)
    fused = []
    for size, stride, padding, kernel in POOLS:
        for after in ("", "Relu", "Clip"):
            name = square_conv(layers, "x", (36, 5), kernel, padding=kernel // 2)
            layers.constants[layers.nodes[-1].input[8]] -= 4000
            bounds = [layers.constant(np.int8(n)) for n in (-20, 60)]
            if after:
                name = layers.add(after, [name, *bounds] if after == "Clip" else [name])
            pool = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
            fused.append(layers.add("MaxPool", [name], **pool))
    program = emit(layers.model(), "pools", kit("ws"))
    assert "topfive_max_pool_codes" not in program.text
    assert program.text.count("static const gemmini_convolution pooled_") == len(fused)
    seen = check(layers, "ws", tmp_path, monkeypatch)
    assert all((seen[name] < 0).any() for name in fused[:6:3])


@simulated
def test_pools_that_the_store_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Layers((1, 5, 12, 14), seed=10)
    forms: list[dict[str, object]] = [
        {"kernel_shape": [4, 4], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    ]
    for pool in forms:
        layers.add("MaxPool", [square_conv(layers, "x", (9, 5), 3)], **pool)
    shared = square_conv(layers, "x", (9, 5), 3)
    layers.add("MaxPool", [shared], kernel_shape=[2, 2], strides=[2, 2])
    square_conv(layers, shared, (3, 9), 1)
    above = layers.add("Clip", [square_conv(layers, "x", (9, 5), 3), layers.constant(np.int8(5))])
    layers.add("MaxPool", [above], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    assert emit(layers.model(), "pools", kit("ws")).text.count("topfive_max_pool_codes(") == len(forms) + 2
    check(layers, "ws", tmp_path, monkeypatch)


@simulated
@flows
def test_matrix_products(dataflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Layers((1, 4, 20, 70), seed=7)
    layers.matmul("x", layers.constant(layers.codes(70, 37)), 0.0005)
    layers.matmul("x", layers.constant(layers.codes(4, 70, 5)), 0.0005)
    turned = layers.add("Transpose", ["x"], perm=[0, 1, 3, 2])
    product = layers.matmul("x", turned, 0.0005)
    layers.matmul(product, "x", 0.001)
    flat = layers.add("Reshape", ["x", layers.constant(np.array([7, 800], np.int64))])
    layers.add("Relu", [layers.matmul(flat, layers.constant(layers.codes(800, 90)), 0.0002)])
    row = layers.add("Reshape", ["x", layers.constant(np.array([1, 5600], np.int64))])
    layers.matmul(row, layers.constant(layers.codes(5600, 130)), 1e-4)
    channels = layers.constant(layers.random.uniform(1e-4, 1e-3, 9).astype(np.float32))
    b = layers.constant(layers.codes(70, 9))
    layers.add("QLinearMatMul", ["x", "one", "zero", b, channels, "zero", "one", "zero"])
    check(layers, dataflow, tmp_path, monkeypatch)


@simulated
@flows
def test_largest_sums(dataflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All codes -128 or 127: what leaves the array has 20 bits, which the emulator checks."""
    layers = Layers((1, 70, 4, 5), seed=3)
    for sign in (-128, 127, 1):
        weights = np.full((9, 70, 3, 3), sign, np.int8)
        weights[::2] = -128
        layers.conv(weights, 1e-5, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        layers.conv(weights[:, :, :1, :1], 1e-4, np.full(9, 2**30, np.int32))
    turned = layers.add("Reshape", ["x", layers.constant(np.array([70, 20], np.int64))])
    layers.matmul(layers.add("Transpose", [turned], perm=[1, 0]), turned, 1e-5)
    pictures = np.stack([np.full((70, 4, 5), code, np.int8) for code in (-128, 127)])
    check(layers, dataflow, tmp_path, monkeypatch, pictures[:1], pictures[1:])


@simulated
def test_requantisation_of_every_kind_of_accumulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 0 make the bias the accumulator: ties, their neighbours, and both ends of int32."""
    layers = Layers((1, 1, 1, 1), seed=5)
    scales = [1.0, 0.5, 2.0**-7, 2.0**-24, 2.0**-31, 0.3, 0.1, 0.7, 0.0037, 3e-7, 1e-9, 1e-20, 300.0, 2.0**20]
    edges = np.array([0, 1, -1, 2**24 - 1, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31)], np.int64)
    for scale in scales:
        ties = (np.arange(-150, 150) + 0.5) / scale
        near = (np.rint(ties)[:, None] + np.arange(-2, 3)).ravel()
        accumulators = np.clip(np.concatenate([edges, near]), -(2**31), 2**31 - 1).astype(np.int64)
        bias = accumulators.astype(np.int32)
        name = layers.conv(np.zeros((bias.size, 1, 1, 1), np.int8), scale, bias)
        layers.constants[f"expected {name}"] = scale_and_saturate(bias, np.float32(scale))
    seen = check(layers, "ws", tmp_path, monkeypatch, np.zeros((1, 1, 1, 1), np.int8))
    for name, value in seen.items():
        np.testing.assert_array_equal(value.ravel(), layers.constants[f"expected {name}"])


@simulated
def test_residual_additions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors larger than the accumulator, of few and many channels, with any scales."""
    layers = Layers((1, 6, 31, 29), seed=11)
    others = [square_conv(layers, "x", (channels, 6), 1) for channels in (6, 70, 200)]
    pairs = [("x", others[0]), (others[1], others[1]), (others[2], others[2])]
    for scales in (
        (0.3, 0.7, 0.5),
        (1.0, 1.0, 1.0),
        (0.02, 1.3, 0.2),
        (0.5, 0.5, 1.0),
        (0.1, 0.29999998, 0.1),
    ):
        a, b, y = (layers.constant(np.float32(s)) for s in scales)
        for left, right in pairs:
            total = layers.add("QLinearAdd", [left, a, "zero", right, b, "zero", y, "zero"], MICROSOFT)
            if scales[0] < 0.2:
                layers.add("Relu", [total])
            elif scales[0] > 0.9:
                layers.add("Clip", [total, layers.constant(np.int8(-9)), layers.constant(np.int8(40))])
    flat = layers.add("Reshape", ["x", layers.constant(np.array([1, -1], np.int64))])
    layers.add("QLinearAdd", [flat, a, "zero", flat, b, "zero", y, "zero"], MICROSOFT)
    check(layers, "ws", tmp_path, monkeypatch)


def test_layers_that_gemmini_cannot_take_are_all_named() -> None:
    layers = Layers((1, 6, 4, 5), seed=0)
    layers.nodes.append(helper.make_node("Softplus", [layers.dequantize("x", 0.1)], ["s"], name="soft"))
    layers.conv(np.ones((1, 6, 9, 9), np.int8), 1.0)
    layers.conv(np.ones((6, 1, 1, 1), np.int8), np.ones(5, np.float32), group=6)
    layers.add("Relu", ["s"])
    with pytest.raises(CompileError) as caught:
        emit(layers.model(), "t", kit("ws"))
    assert "Softplus 'soft' has no C form in the RISC-V program (and 2 more)" in caught.value.message
    assert "a window of [9, 9] does not fit [4, 5]" in caught.value.details
    assert "5 scales for 6 channels" in caught.value.details
    assert "Relu" not in str(caught.value)


@flows
def test_sums_that_could_overflow_are_refused(dataflow: str) -> None:
    layers = Layers((1, 131_072, 1, 1), seed=0)
    layers.conv(np.ones((1, 131_072, 1, 1), np.int8), 1.0)
    with pytest.raises(CompileError, match=r"QLinearConv .*131072 products could overflow int32"):
        emit(layers.model(), "t", kit(dataflow))
