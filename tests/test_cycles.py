"""Modelled cycles: the published table that the model must give, exact figures, layers of graphs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from topfive.errors import CardError, CompileError, UnknownNameError
from topfive.targets.gemmini.costs import WHOLE, Costs, work_costs
from topfive.targets.gemmini.cycles import (
    CALIBRATION_FILE,
    LayerCycles,
    ModelCycles,
    fitted_share,
    load_calibration,
    model_cycles,
    model_layers,
)
from topfive.targets.gemmini.hardware import load_hardware, scaled
from topfive.targets.gemmini.layers import Conv, Layer, Matmul, ResidualAdd, Work

import int8_graphs
from resnet50 import resnet50

DEFAULT = load_hardware("default")


@cache
def resnet(batch: int, bus_bytes: int = 16, *, classifier: bool = True) -> ModelCycles:
    hardware = scaled(DEFAULT, bus_bytes=bus_bytes)
    return model_cycles(resnet50(batch, classifier=classifier), hardware, batch=batch)


def layer(model: ModelCycles, name: str) -> LayerCycles:
    return next(found for found in model.layers if found.layer.name == name)


# Bus bytes a cycle: millions of cycles and utilisation in % at batch 1, the same at batch 4.
TABLE = {
    16: (19.0, 79.5, 75.4, 79.9),
    12: (22.1, 68.3, 92.8, 65.0),
    8: (26.0, 57.9, 112.4, 53.6),
    7: (30.1, 50.1, 132.2, 45.6),
    6: (32.4, 46.4, 142.9, 42.2),
    5: (37.3, 40.4, 164.8, 36.6),
}


@pytest.mark.parametrize("bus", TABLE, ids=lambda bus: f"bus{bus}")
def test_the_table_of_the_prototype(bus: int) -> None:
    found = []
    for batch in (1, 4):
        model = resnet(batch, bus, classifier=False)
        # The prototype took the classifier as its weights over the bus, and no other cost of it.
        cycles = model.cycles("bus") + 2_048_000 / bus
        macs = model.macs + batch * 2_048_000
        found += [round(cycles / 1e6, 1), round(100 * macs / 256 / cycles, 1)]
    assert tuple(found) == TABLE[bus]


def test_the_table_with_this_models_classifier() -> None:
    for bus, (one, _, four, _) in TABLE.items():
        assert resnet(1, bus).cycles("bus") / 1e6 == pytest.approx(one, abs=0.06)
        assert resnet(4, bus).cycles("bus") / 1e6 == pytest.approx(four, abs=0.06)
    # Two of the 24 figures differ in the last digit: 63 blocks of 16 columns are computed for 1000 classes,
    # and the input is loaded once for every 8 of them.
    assert round(100 * resnet(1).utilisation("bus"), 2) == 79.45
    assert resnet(1, 6).cycles("bus") == 32_452_448


@pytest.mark.parametrize(
    ("name", "ideal", "compute", "load"),
    [
        ("conv1", 460_992, 909_440, 603_520),
        ("s0b0_3x3", 451_584, 461_952, 132_416),
        ("s0b0_expand", 200_704, 205_312, 410_624),
        ("s3b0_3x3", 451_584, 584_640, 162_303),
        ("s3b1_reduce", 200_704, 237_568, 96_896),
    ],
)
def test_layers_of_the_prototype(name: str, ideal: int, compute: int, load: int) -> None:
    found = layer(resnet(1), name)
    assert (found.ideal, found.costs.compute, found.costs.load) == (ideal, compute, load)


def test_exact_figures() -> None:
    one, four = resnet(1), resnet(4)
    assert one.costs == Costs(
        compute=16_635_808,
        load=10_978_941,
        store=1_069_439,
        slow_load=22_965_011,
        bus=18_969_248,
        estimate=27_090_493,
        load_bytes=171_257_056,
        store_bytes=15_505_384,
        tiles=4156,
    )
    assert (one.ideal, four.ideal) == (15_070_208, 60_280_832)
    assert (four.costs.bus, four.costs.estimate) == (75_449_632, 118_209_135)
    assert (four.costs.load_bytes, four.costs.store_bytes) == (761_307_072, 62_021_536)


def test_calibration_is_what_fits_the_published_utilisation() -> None:
    calibration = load_calibration()
    share = fitted_share(resnet50(4), "default", calibration.utilisation_per_10000)
    assert share == calibration.load_share_per_10000 == 4781
    assert round(resnet(4).utilisation(), 4) == 0.51
    above = replace(calibration, load_share_per_10000=share + 1)
    assert model_cycles(resnet50(4), calibration=above).utilisation() > 0.51
    assert 7 < 16 * share / WHOLE < 8
    assert calibration.other_cycles == 153_709_356


def test_a_calibration_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = CALIBRATION_FILE.read_text()
    path.write_text(text.replace("load_share_per_10000 = 4781", "load_share_per_10000 = 10000"))
    full = model_cycles(resnet50(1), calibration=load_calibration(path))
    assert full.cycles("estimate") == full.cycles("bus") == 18_969_248
    path.write_text(text.replace("load_share_per_10000 = 4781", "load_share_per_10000 = 0"))
    load_calibration.cache_clear()
    with pytest.raises(CardError, match="key 'load_share_per_10000' must be from 1 to 10000"):
        load_calibration(path)


def test_summary_says_that_it_is_modelled() -> None:
    summary = resnet(4).summary()
    assert summary["modelled"] is True
    assert summary["calibration"] == "resnet50_batch4"
    assert "51 %" in summary["calibration_source"]
    assert summary["bus_cycles"] == 75_449_632
    assert summary["estimate_milliseconds"] == pytest.approx(118.209135)
    assert summary["estimate_images_per_second"] == pytest.approx(4e9 / 118_209_135)
    assert summary["bus_milliseconds"] == pytest.approx(75.449632)


def test_rows_of_a_table() -> None:
    rows = {row["name"]: row for row in resnet(1).rows()}
    assert len(rows) == 70
    assert rows["conv1"]["bound_by"] == "load"
    assert rows["s0b0_3x3"]["bound_by"] == "compute"
    assert rows["s0b0_add"]["macs"] == rows["s0b0_add"]["ideal_cycles"] == 0
    assert rows["s0b0_add"]["bus"] == 2 * 56 * 56 * 256 // 16
    assert {row["on"] for row in rows.values()} == {"gemmini"}


CONVS = st.builds(
    Conv,
    batch=st.integers(1, 4),
    in_dim=st.tuples(st.integers(7, 60), st.integers(7, 60)),
    in_channels=st.integers(1, 200),
    out_channels=st.integers(1, 200),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.just(0),
    pool=st.sampled_from([(0, 0, 0), (1, 1, 0)]),
    bias=st.booleans(),
)
MATMULS = st.builds(
    Matmul, st.integers(1, 900), st.integers(1, 900), st.integers(1, 900), st.integers(1, 3), st.booleans()
)
ADDS = st.builds(ResidualAdd, st.integers(1, 4000), st.integers(1, 1000))
HARDWARE = st.sampled_from([load_hardware(name) for name in ("default", "dim8", "dim32", "chip")])


def outputs(work: Work) -> int:
    if isinstance(work, Conv):
        return work.batch * work.out_dim[0] * work.out_dim[1] * work.out_channels
    return work.i * work.j * (work.count if isinstance(work, Matmul) else 1)


@given(work=st.one_of(CONVS, MATMULS, ADDS), hardware=HARDWARE, share=st.integers(1, WHOLE))
def test_what_holds_for_any_work(work: Work, hardware: Any, share: int) -> None:
    costs = work_costs(work, hardware, "ws", "current", share)
    assert costs.estimate >= costs.bus >= max(costs.compute, costs.load, costs.store)
    assert costs.bus <= costs.compute + costs.load + costs.store
    assert costs.compute * hardware.elements >= work.macs
    assert costs.slow_load * share >= costs.load * WHOLE
    assert costs.store_bytes == outputs(work) * hardware.element_bytes
    assert costs.load * hardware.bus_bytes >= costs.load_bytes
    assert costs.tiles >= 1
    assert work_costs(work, hardware, "ws", "current", WHOLE).estimate == costs.bus


@given(work=CONVS, hardware=HARDWARE)
def test_operands_are_loaded_at_least_once(work: Conv, hardware: Any) -> None:
    costs = work_costs(work, hardware, "ws", "current", WHOLE)
    weights = work.kernel**2 * work.in_channels * work.out_channels
    read = work.batch * work.in_channels
    for out, whole in zip(work.out_dim, work.in_dim, strict=True):
        read *= whole if work.stride <= work.kernel else out
    unread = work.batch * work.in_channels * (work.stride - 1) * sum(work.in_dim)
    assert costs.load_bytes >= weights + read - unread


@given(work=CONVS, more=st.integers(2, 4))
def test_a_slower_bus_or_more_pictures_never_take_less(work: Conv, more: int) -> None:
    base = work_costs(work, DEFAULT, "ws", "current", WHOLE)
    for slower in (scaled(DEFAULT, bus_bytes=8), scaled(DEFAULT, bus_bytes=4)):
        assert work_costs(work, slower, "ws", "current", WHOLE).bus >= base.bus
    larger = work_costs(replace(work, batch=work.batch * more), DEFAULT, "ws", "current", WHOLE)
    assert larger.store_bytes == more * base.store_bytes
    assert larger.bus >= base.bus


def test_the_first_layer_packs_pixels() -> None:
    stem = Conv(1, (224, 224), 3, 64, 7, 2, 3)
    packed = work_costs(stem, DEFAULT, "ws", "current", WHOLE)
    alone = work_costs(stem, replace(DEFAULT, first_layer=False), "ws", "current", WHOLE)
    # Five pixels of three channels a row: two steps for seven kernel columns.
    assert packed.compute * 7 == alone.compute * 2


def test_depthwise_takes_every_channel_alone() -> None:
    work = Conv(1, (56, 56), 32, 32, 3, 1, 1, depthwise=True)
    one = Conv(1, (56, 56), 1, 1, 3, 1, 1)
    costs = work_costs(work, DEFAULT, "ws", "current", WHOLE)
    assert costs == work_costs(one, DEFAULT, "ws", "current", WHOLE) * 32
    assert work.macs == 56 * 56 * 32 * 9


def test_groups_run_one_after_another() -> None:
    whole = Conv(1, (28, 28), 32, 64, 1)
    grouped = replace(whole, groups=4)
    assert work_costs(grouped, DEFAULT, "ws", "current", WHOLE) == (
        work_costs(whole, DEFAULT, "ws", "current", WHOLE) * 4
    )
    assert grouped.macs == 4 * whole.macs


def test_a_product_that_stays_is_loaded_once() -> None:
    # 3 x 1 tiles: B is kept, and so is not loaded again for every tile of rows.
    kept = work_costs(Matmul(3000, 64, 64), DEFAULT, "ws", "current", WHOLE)
    again = work_costs(Matmul(3000, 64, 64), DEFAULT, "ws", "seed", WHOLE)
    assert kept.load_bytes == 3000 * 64 + 64 * 64
    assert again.load_bytes == 3000 * 64 + kept.tiles * 64 * 64
    assert kept.tiles > 1


def test_output_stationary() -> None:
    layers = [
        Layer("conv", "QLinearConv", Conv(1, (14, 14), 64, 32, 3, 1, 1)),
        Layer("deep", "QLinearConv", Conv(1, (14, 14), 8, 8, 3, 1, 1, depthwise=True)),
        Layer("add", "QLinearAdd", ResidualAdd(196, 32)),
    ]
    found = model_cycles(layers, dataflow="os")
    assert [row.layer.on for row in found.layers] == ["gemmini", "gemmini", "cpu"]
    assert "weight stationary only" in found.layers[2].layer.note
    assert found.layers[0].costs == work_costs(
        Matmul(196, 32, 576, 1, True), DEFAULT, "os", "current", load_calibration().load_share_per_10000
    )
    assert found.layers[0].costs.bus == sum(
        (found.layers[0].costs.compute, found.layers[0].costs.load, found.layers[0].costs.store)
    )
    assert found.macs == sum(layer.work.macs for layer in layers if layer.work is not None)


def test_refused_options() -> None:
    with pytest.raises(UnknownNameError, match="unknown dataflow 'rs'"):
        model_cycles([], dataflow="rs")
    with pytest.raises(UnknownNameError, match="unknown Gemmini library 'old'"):
        model_cycles([], library="old")
    with pytest.raises(UnknownNameError, match="unknown Gemmini hardware 'dim64'"):
        model_cycles([], "dim64")
    with pytest.raises(CompileError, match="hardware 'lean' has no dataflow 'os', only ws"):
        model_cycles([], "lean", "os")
    with pytest.raises(UnknownNameError, match=r"unknown modelled figure 'busy': did you mean bus\?"):
        resnet(1).cycles("busy")


def test_nothing_to_run() -> None:
    empty = model_cycles([Layer("soft", "Softmax", None, "runs on the CPU")])
    assert (empty.cycles(), empty.utilisation(), empty.images_per_second()) == (0, 0.0, 0.0)
    assert empty.layers[0].bound_by == ""
    assert empty.rows()[0]["on"] == "cpu"


# Layers of graphs.

POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}


def conv_graph(shape: tuple[int, ...] = (1, 3, 32, 32), **options: Any) -> onnx.ModelProto:
    filters = options.pop("filters", (8, 3, 3, 3))
    return int8_graphs.conv(shape, np.ones(filters, np.int8), np.ones(8, np.int32), 0.01, **options)


def test_relu_and_pool_are_fused() -> None:
    model = conv_graph(relu=True, pool=POOL, pads=[1, 1, 1, 1])
    conv, relu, pool = model_layers(model, batch=2)
    assert conv.work == Conv(2, (32, 32), 3, 8, 3, 1, 1, pool=(3, 2, 1))
    assert (relu.on, pool.on) == ("fused", "fused")
    assert pool.note == "fused into conv"


@pytest.mark.parametrize(
    "change",
    [
        {"ceil_mode": 1},
        {"pads": [0, 0, 1, 1]},
        {"kernel_shape": [3, 2]},
        {"dilations": [2, 2]},
        {"kernel_shape": [4, 4]},
        {"auto_pad": "SAME_UPPER", "pads": None},
    ],
    ids=["ceil", "uneven_pads", "rectangle", "dilated", "too_large", "auto_pad"],
)
def test_pools_that_stay_on_the_cpu(change: dict[str, Any]) -> None:
    pool = {key: value for key, value in {**POOL, **change}.items() if value is not None}
    conv, relu, pooled = model_layers(conv_graph(relu=True, pool=pool))
    assert isinstance(conv.work, Conv)
    assert conv.work.pool == (0, 0, 0)
    assert (relu.on, pooled.on, pooled.note) == ("fused", "cpu", "runs on the CPU")


def test_a_pool_of_a_rectangle_stays_on_the_cpu() -> None:
    layers = model_layers(conv_graph((1, 3, 32, 48), relu=True, pool=POOL))
    assert [layer.on for layer in layers] == ["gemmini", "fused", "cpu"]


def test_two_readers_forbid_fusion() -> None:
    model = conv_graph(relu=True)
    model.graph.output.append(helper.make_tensor_value_info("conv", onnx.TensorProto.INT8, None))
    assert [layer.on for layer in model_layers(model)] == ["gemmini", "cpu"]


@pytest.mark.parametrize(("bounds", "on"), [((0, 127), "fused"), ((0, 96), "cpu"), ((-5, 127), "cpu")])
def test_only_a_clip_that_is_a_relu_is_fused(bounds: tuple[int, int], on: str) -> None:
    model = conv_graph()
    for name, value in zip(("low", "high"), bounds, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.int8(value), name))
    model.graph.node.append(helper.make_node("Clip", ["conv", "low", "high"], ["y"], name="clip"))
    model.graph.output[0].name = "y"
    assert model_layers(model)[1].on == on


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        ({"pads": [0, 0, 1, 1], "strides": [2, 2]}, (8, 3, 3, 3)),
        ({"pads": [0, 1, 0, 1]}, (8, 3, 1, 3)),
        ({"strides": [1, 2]}, (8, 3, 3, 3)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (8, 3, 3, 3)),
        ({"pads": [3, 3, 3, 3]}, (8, 3, 3, 3)),
    ],
    ids=["uneven_pads", "rectangle", "uneven_strides", "same_uneven", "wide_pads"],
)
def test_other_windows_become_products(options: dict[str, Any], filters: tuple[int, ...]) -> None:
    model = conv_graph(filters=filters, **options)
    (found,) = model_layers(model, batch=3)
    assert isinstance(found.work, Matmul)
    assert (found.work.j, found.work.k) == (8, int(np.prod(filters[1:])))
    assert found.work.i % 3 == 0
    assert "im2col" in found.note


def test_same_padding_that_is_even_is_a_convolution() -> None:
    (found,) = model_layers(conv_graph(auto_pad="SAME_UPPER"))
    assert found.work == Conv(1, (32, 32), 3, 8, 3, 1, 1)


def test_depthwise_and_groups() -> None:
    (deep,) = model_layers(conv_graph((1, 8, 16, 16), filters=(8, 1, 3, 3), group=8, pads=[1] * 4))
    assert deep.work == Conv(1, (16, 16), 8, 8, 3, 1, 1, depthwise=True)
    assert "not calibrated" in deep.note
    (grouped,) = model_layers(conv_graph((1, 8, 16, 16), filters=(8, 4, 1, 1), group=2))
    assert grouped.work == Conv(1, (16, 16), 4, 4, 1, groups=2)


def test_residual_additions() -> None:
    add, relu = model_layers(int8_graphs.add((1, 16, 7, 7), 0.1, 0.2, 0.3, relu=True), batch=4)
    assert add.work == ResidualAdd(4 * 49, 16)
    assert relu.on == "fused"


def test_matrix_products() -> None:
    (weights,) = model_layers(int8_graphs.matmul((1, 65, 48), np.ones((48, 96), np.int8), 0.1), batch=2)
    assert weights.work == Matmul(130, 96, 48)
    (attention,) = model_layers(int8_graphs.matmul((1, 3, 65, 16), (1, 3, 16, 65), 0.1), batch=2)
    assert attention.work == Matmul(65, 65, 16, count=6)


def test_shapes_behind_an_addition_are_known() -> None:
    constants = {**int8_graphs.unit_constants(), "w": np.ones((4, 8, 1, 1), np.int8)}
    scales = ["one", "zero"]
    nodes = [
        helper.make_node(
            "QLinearAdd",
            ["a", *scales, "a", *scales, *scales],
            ["sum"],
            name="add",
            domain=int8_graphs.MICROSOFT,
        ),
        helper.make_node("QLinearConv", ["sum", *scales, "w", *scales, *scales], ["y"], name="conv"),
    ]
    model = int8_graphs.model(nodes, {"a": ("batch", 8, 5, 5)}, "y", constants)
    before = model.SerializeToString()
    assert model_layers(model, batch=2)[1].work == Conv(2, (5, 5), 8, 4, 1, bias=False)
    assert model.SerializeToString() == before


def test_unknown_sizes_and_batches() -> None:
    with pytest.raises(CompileError, match=r"the shape of 'x' is \[1, 3, 'h', 'w'\]"):
        model_layers(conv_graph((1, 3, "h", "w")))  # type: ignore[arg-type]
    with pytest.raises(CompileError, match="a batch of 0 pictures"):
        model_layers(conv_graph(), batch=0)
