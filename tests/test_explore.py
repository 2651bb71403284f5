"""Design points: rows, the Pareto front, the plot, and refused options."""

from __future__ import annotations

import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import CardError
from topfive.targets.gemmini.cycles import load_calibration, model_cycles
from topfive.targets.gemmini.explore import DesignPoint, Exploration, explore, pareto, parse_bytes
from topfive.targets.gemmini.hardware import load_hardware, scaled
from topfive.targets.gemmini.layers import Conv, Layer
from topfive.targets.gemmini.plot import exploration_svg

from resnet50 import resnet50

KIB = 1024
SVG = "{http://www.w3.org/2000/svg}"
SMALL = [
    Layer("a", "QLinearConv", Conv(1, (28, 28), 32, 64, 3, 1, 1)),
    Layer("b", "QLinearConv", Conv(1, (28, 28), 64, 64, 1)),
    Layer("c", "Softmax", None, "runs on the CPU"),
]


def small(**options: tuple[int, ...]) -> Exploration:
    chosen = {"dims": (8, 16), "scratchpads": (32 * KIB, 256 * KIB), "accumulators": (16 * KIB, 64 * KIB)}
    return explore(SMALL, **{**chosen, **options})


def test_a_point_is_the_model_on_that_hardware() -> None:
    found = explore(
        resnet50(1), dims=[16], scratchpads=[256 * KIB], accumulators=[64 * KIB], base="default"
    ).points
    assert len(found) == 1
    expected = model_cycles(resnet50(1))
    assert (found[0].bus_cycles, found[0].estimate_cycles) == (18_969_248, expected.cycles())
    assert found[0].row() == {
        "dim": 16,
        "scratchpad_bytes": 256 * KIB,
        "accumulator_bytes": 64 * KIB,
        "bus_bytes": 16,
        "elements": 256,
        "sram_bytes": 320 * KIB,
        "bus_cycles": 18_969_248,
        "estimate_cycles": 27_090_493,
        "utilisation": pytest.approx(expected.utilisation()),
    }


def test_every_combination_in_order() -> None:
    rows = [point.row() for point in small(buses=(8, 16)).points]
    assert len(rows) == 16
    assert [(row["dim"], row["bus_bytes"]) for row in rows[:3]] == [(8, 8), (8, 16), (8, 8)]
    assert rows == [point.row() for point in small(buses=(8, 16)).points]


def test_processes_change_nothing() -> None:
    options = {"dims": [8, 16], "scratchpads": [64 * KIB], "accumulators": [32 * KIB]}
    assert explore(SMALL, **options, processes=2) == explore(SMALL, **options)


def test_what_is_no_hardware_is_left_out_with_the_reason() -> None:
    found = small(dims=(16, 64), accumulators=(16 * KIB,), scratchpads=(32 * KIB, 1000))
    assert [point.hardware.dim for point in found.points] == [16]
    reasons = dict(found.refused)
    assert len(reasons) == 3
    assert "leaves 64 rows" in reasons["64x64, scratchpad 32768, accumulator 16384, bus 16"]
    assert "not whole rows" in reasons["16x16, scratchpad 1000, accumulator 16384, bus 16"]


def test_a_layer_that_does_not_fit_leaves_the_point_out() -> None:
    pooled = [Layer("p", "QLinearConv", Conv(1, (60, 60), 8, 8, 7, 3, 0, pool=(3, 3, 0)))]
    found = explore(pooled, dims=[4], scratchpads=[256], accumulators=[KIB])
    assert found.points == ()
    assert "does not fit" in found.refused[0][1]
    assert "no points" in exploration_svg(found, "none")


def test_nothing_to_explore() -> None:
    with pytest.raises(CardError, match="nothing to explore"):
        explore(SMALL[2:], dims=[16], scratchpads=[256 * KIB], accumulators=[64 * KIB])
    with pytest.raises(CardError, match="nothing to explore"):
        small(dims=())


def point(elements_side: int, rows: int, bus: int, cycles: int) -> DesignPoint:
    base = load_hardware("default")
    hardware = replace(base, dim=elements_side, bank_rows=rows, bus_bytes=bus)
    return DesignPoint(hardware, 1, cycles, cycles)


@given(
    st.lists(
        st.builds(
            point, st.integers(4, 8), st.integers(100, 104), st.sampled_from([8, 16]), st.integers(1, 6)
        ),
        max_size=30,
    )
)
def test_the_front_is_what_nothing_beats(points: list[DesignPoint]) -> None:
    def cost(p: DesignPoint) -> tuple[int, ...]:
        return p.elements, p.sram_bytes, p.hardware.bus_bytes, p.estimate_cycles

    def beats(one: DesignPoint, other: DesignPoint) -> bool:
        better = all(a <= b for a, b in zip(cost(one), cost(other), strict=True))
        return better and cost(one) != cost(other)

    front = pareto(points)
    assert {cost(p) for p in front} == {
        cost(p) for p in points if not any(beats(other, p) for other in points)
    }
    assert len({cost(p) for p in front}) == len(front)


def test_the_plot_is_svg_that_says_modelled() -> None:
    found = small(buses=(8, 16))
    svg = exploration_svg(found, "two layers & more")
    root = ElementTree.fromstring(svg)
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert "two layers & more" in texts
    assert any(
        text.startswith("modelled cycles, not measured; calibration resnet50_batch4") for text in texts
    )
    assert {"8x8 array", "16x16 array"} <= set(texts)
    small_circles = [c for c in root.iter(f"{SVG}circle") if c.get("r") == "2.6"]
    assert len(small_circles) == len(found.points)
    for circle in root.iter(f"{SVG}circle"):
        assert 0 < float(circle.get("cx", "-1")) < 760
        assert 0 < float(circle.get("cy", "-1")) < 460
    assert svg == exploration_svg(found, "two layers & more")


def test_a_plot_of_one_point() -> None:
    only = (point(16, 4096, 16, 3_000_000),)
    svg = exploration_svg(Exploration(only, (), load_calibration()), "one")
    labels = [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "320 KiB" in labels
    assert "3 M" in labels


@pytest.mark.parametrize(
    ("text", "size"),
    [("256K", 262144), ("256k", 262144), ("1M", 1048576), ("65536", 65536), ("64KiB", 65536)],
)
def test_capacities(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1K", "1.5M", "0", "12G", "²K", "KK"])
def test_bad_capacities(text: str) -> None:
    with pytest.raises(CardError, match="is not a capacity"):
        parse_bytes(text)


def test_speed_allows_a_thousand_points_a_minute() -> None:
    before = time.process_time()
    found = explore(
        resnet50(1),
        dims=(8, 16, 32),
        scratchpads=[(96 + 16 * step) * KIB for step in range(4)],
        accumulators=[48 * KIB, 80 * KIB],
        buses=(8, 16),
    )
    seconds = time.process_time() - before
    assert len(found.points) == 48
    # Two cores, a minute: 120 CPU-seconds for a thousand.
    assert seconds / len(found.points) < 0.12


def test_scaled_points_keep_the_base() -> None:
    lean = load_hardware("lean")
    found = explore(SMALL, dims=[8], scratchpads=[64 * KIB], accumulators=[32 * KIB], base=lean)
    assert found.points[0].hardware == scaled(
        lean, dim=8, scratchpad_bytes=64 * KIB, accumulator_bytes=32 * KIB, bus_bytes=16
    )
