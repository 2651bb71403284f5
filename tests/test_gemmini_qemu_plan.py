"""The parts of `gemmini_qemu` that need no toolchain: memory plan, loops, data section, windows, blocks."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from topfive.errors import CompileError
from topfive.sessions import open_session
from topfive.targets.gemmini_qemu.data import DataSection, scalings
from topfive.targets.gemmini_qemu.integer_rules import arrange, block_of
from topfive.targets.gemmini_qemu.memory import ALIGNMENT, Lifetime, plan
from topfive.targets.gemmini_qemu.tensors import CHANNELS_LAST, Loop, Tensor, walk
from topfive.targets.gemmini_qemu.windows import window_of

LIFETIMES = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.integers(1, 1000),
        st.integers(0, 20),
        st.integers(0, 6),
    ),
    max_size=25,
)


@given(LIFETIMES)
def test_buffers_that_live_together_lie_apart(buffers: list[Lifetime]) -> None:
    offsets, total = plan(buffers)
    for i, (offset, buffer) in enumerate(zip(offsets, buffers, strict=True)):
        assert offset % ALIGNMENT == 0
        assert offset + buffer.size <= total
        for other_offset, other in zip(offsets[:i], buffers, strict=False):
            if buffer.overlaps(other):
                assert offset >= other_offset + other.size or other_offset >= offset + buffer.size


def test_a_chain_of_buffers_needs_two_at_a_time() -> None:
    _, total = plan([Lifetime(640, i, i + 1) for i in range(12)])
    assert total == 2 * 640


@given(
    st.lists(st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(0, 3)] * 2), min_size=1, max_size=5), st.data()
)
def test_joined_loops_visit_the_same_elements(
    given_loops: list[tuple[int, ...]], data: st.DataObject
) -> None:
    loops = [Loop(*numbers) for numbers in given_loops]
    if data.draw(st.booleans()):
        # A tensor that lies without gaps, so that loops can be joined.
        steps = np.cumprod([1, *(loop.count for loop in loops[::-1])])[-2::-1]
        loops = [Loop(loop.count, int(s), int(s), loop.b) for loop, s in zip(loops, steps, strict=True)]
    rows = [[int(n) for n in re.findall(r"-?\d+", row)] for row in re.findall(r"\{([^{}]+)\}", walk(loops))]
    joined = [Loop(*column) for column in zip(*rows, strict=True)]
    assert len(joined) == 6

    def visited(nest: list[Loop]) -> list[tuple[int, int, int]]:
        indices = np.ndindex(*(loop.count for loop in nest))
        return [
            tuple(
                sum(i * getattr(loop, k) for i, loop in zip(index, nest, strict=True))
                for k in ("to", "a", "b")
            )
            for index in indices
        ]

    assert visited(joined) == visited(loops)


def test_more_loops_than_the_runtime_has_are_refused() -> None:
    with pytest.raises(CompileError, match="7 nested loops"):
        walk([Loop(2, 5**i, 7**i) for i in range(7)])


def test_data_is_aligned_and_stored_once() -> None:
    data = DataSection()
    addresses = [data.add(np.arange(n, dtype=np.int8)) for n in (3, 100, 3)]
    assert addresses == ["D(0)", "D(64)", "D(0)"]
    assert len(data.content()) == 64 + 128
    assert len(DataSection().content()) > 0


@given(st.lists(st.floats(2.0**-140, 2.0**30, width=32), min_size=1, max_size=20))
def test_scalings_are_the_same_number(factors: list[float]) -> None:
    stored = scalings(np.array(factors, np.float32))
    for factor, row in zip(factors, stored, strict=True):
        assert row["scale"] == np.float32(factor)
        if row["shift"]:
            assert 16 <= row["shift"] <= 60
            assert float(row["multiplier"]) * 2.0 ** -int(row["shift"]) == factor
        else:
            assert not 2.0**-36 <= factor < 2.0**7


@given(st.integers(1, 700), st.integers(1, 5), st.integers(0, 128), st.integers(0, 2**32 - 1))
def test_no_lane_can_overflow(depth: int, columns: int, magnitude: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(-magnitude, magnitude + 1, (1, depth, columns)).clip(-128, 127).astype(np.int8)
    block = block_of(weights, depth)
    assert 1 <= block <= max(1, min(depth, 512))
    edges = [*range(0, depth, block), depth]
    for start, end in pairwise(edges):
        assert 128 * np.abs(weights[0, start:end].astype(int)).sum(axis=0).max() < 2**20


def test_unknown_weights_are_taken_for_the_largest() -> None:
    assert block_of(None, 1000) == 63
    assert block_of(None, 10) == 10
    assert 128 * 128 * 63 < 2**20 <= 128 * 128 * 64


def test_arranged_columns() -> None:
    matrix = np.arange(12, dtype=np.int8).reshape(2, 6)
    arranged = arrange(matrix)
    assert arranged.shape == (2, 2, 4)
    np.testing.assert_array_equal(arranged[0], matrix[:, :4])
    np.testing.assert_array_equal(arranged[1], np.pad(matrix[:, 4:], ((0, 0), (0, 2))))


def test_steps_of_a_channels_last_tensor() -> None:
    tensor = Tensor("t", "int8", (1, 3, 4, 5), CHANNELS_LAST, "B0", 0)
    assert tensor.steps == (60, 1, 15, 3)
    assert not tensor.lies_as((0, 1, 2, 3))
    assert Tensor("t", "int8", (1, 3, 1, 1), CHANNELS_LAST, "B0", 0).lies_as((0, 1, 2, 3))


@given(
    size=st.tuples(*[st.integers(1, 12)] * 2),
    kernel=st.tuples(*[st.integers(1, 3)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    ceil_mode=st.integers(0, 1),
    auto_pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
)
def test_windows_have_onnxruntimes_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, ...],
    ceil_mode: int,
    auto_pad: str,
) -> None:
    attrs = {"kernel_shape": kernel, "strides": stride, "ceil_mode": ceil_mode, "auto_pad": auto_pad}
    if auto_pad == "NOTSET":
        assume(all(pads[i] < kernel[i % 2] for i in range(4)))
        attrs["pads"] = pads
    padded = [n + (pads[i] + pads[i + 2] if auto_pad == "NOTSET" else 0) for i, n in enumerate(size)]
    assume(auto_pad.startswith("SAME") or all(k <= n for k, n in zip(kernel, padded, strict=True)))
    assume(not (auto_pad != "NOTSET" and ceil_mode))
    # ONNX Runtime runs no window that steps over pixels of its own padding.
    assume(auto_pad == "NOTSET" or all(s <= k for s, k in zip(stride, kernel, strict=True)))
    node = helper.make_node("MaxPool", ["x"], ["y"], **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, *size))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model.SerializeToString(), threads=1)
    (wanted,) = session.run(None, {"x": np.zeros((1, 1, *size), np.float32)})
    window = window_of(attrs, (1, 1, *size), kernel)
    assert wanted.shape[2:] == (window.out_rows, window.out_cols)


@pytest.mark.parametrize(
    ("attrs", "shape", "message"),
    [
        ({}, (2, 3, 4, 4), "only one picture"),
        ({}, (1, 3, 4), "only one picture"),
        ({}, (1, 3, 2, 2), "does not fit"),
        ({"pads": [-1, 0, 0, 0]}, (1, 3, 9, 9), "negative padding"),
    ],
    ids=["batch", "rank", "small", "negative"],
)
def test_windows_that_have_no_c_form(
    attrs: dict[str, list[int]], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        window_of(attrs, shape, (3, 3))
