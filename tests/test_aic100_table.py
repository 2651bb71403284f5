"""The table of tuned configurations of `aic100`: the vendor's figures, whole, and fit for the zoo's cards."""

from __future__ import annotations

import re
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from topfive.cards import find_card, load_cards
from topfive.targets.aic100.configuration import (
    OBJECTIVES,
    Row,
    configure,
    look_up,
    read_table,
    table_source,
)
from topfive.targets.aic100.options import OPTIONS
from topfive.targets.aic100.target import Aic100Target
from topfive.targets.aic100.toolchain import compile_command

from aic100_tools import EMULATORS, Emulated

CARDS = load_cards()
ROWS = read_table(table_source(""))
MEASURED = [row for row in ROWS if row["THPS"]]
NSPS = 14
"""Of the cards that the table is for."""
LITTLE = (0.9, 1.7)
"""95th percentile of a batch's latency / mean by Little's law: near 1 for a queue that is always full. 98 of
100 rows are within 0.9 and 1.2, efficientnet_b0 for throughput is at 1.54 and resnet18 at 1.69."""
# Its weights are evaluated at 288, the table's row is for 260.
OTHER_SIZE = {"efficientnet_b2": 260}


def ids(rows: list[Row] | tuple[Row, ...]) -> list[str]:
    return [f"{row['MODEL_NAME']}:{row['OBJECTIVE']}" for row in rows]


def cell(row: Row, name: str) -> int:
    return int(row[name])


def test_the_table_has_every_model_of_the_vendor_s() -> None:
    names = [row["MODEL_NAME"] for row in ROWS]
    assert (len(ROWS), len(set(names)), len(MEASURED)) == (109, 53, 100)
    assert len(set(ids(ROWS))) == 109
    three = {"resnet-50", "resnet-152", "vit-base-patch16-224"}
    wanted = {name: 3 if name in three else 2 for name in names}
    assert Counter(names) == wanted
    assert {row["MODEL_NAME"] for row in MEASURED} == set(names) - three
    # Where an objective has no row the first one is taken: that of throughput, as in the vendor's table.
    assert names == sorted(names)
    for name in set(names):
        order = [OBJECTIVES.index(row["OBJECTIVE"]) for row in ROWS if row["MODEL_NAME"] == name]
        assert order == sorted(order)
        assert look_up(ROWS, name, "another")[0] == look_up(ROWS, name, "best-throughput")[0]
    assert {(row["TASK"], row["PRECISION"]) for row in ROWS} == {("image-classification", "fp16")}


@pytest.mark.parametrize(
    ("model", "objective", "motif", "set_size", "image_size", "extra", "published"),
    [
        (
            "resnet50",
            "best-throughput",
            "B13-C7-A2-OLS2-MOS1-best-throughput",
            3,
            224,
            "-multicast-weights",
            (7623.0, 10.3),
        ),
        (
            "resnet50",
            "best-latency",
            "B1-C12-A1-OLS1-MOS12-best-latency",
            1,
            224,
            "-multicast-weights -use-producer-dma=1",
            (1075.0, 1.0),
        ),
        (
            "mobilenet_v2",
            "best-throughput",
            "B14-C2-A7-OLS4-best-throughput",
            3,
            224,
            "-aic-enable-depth-first",
            (19322.6, 15.3),
        ),
        ("vit_b_16", "best-throughput", "B4-C2-A7-OLS4-MOS1-best-throughput", 2, 224, "", (1241.4, 45.7)),
        (
            "resnet-50",
            "best-latency",
            "B1-C14-A1-OLS1-MOS1,7-best-latency",
            3,
            224,
            "-sdp-cluster-sizes=7,7 -multicast-weights -use-producer-dma=1",
            None,
        ),
        (
            "vit-base-patch16-224",
            "balanced",
            "B2-C6-A2-OLS1-MOS6-balanced",
            2,
            224,
            "-multicast-weights",
            None,
        ),
        (
            "alexnet",
            "best-throughput",
            "B15-C1-A14-OLS2-MOS1-best-throughput",
            2,
            224,
            "-aic-enable-depth-first -aic-depth-first-mem=32",
            (11464.0, 41.9),
        ),
        ("efficientnet_b7", "best-latency", "B1-C12-A1-OLS1-best-latency", 1, 600, "", (32.2, 31.0)),
    ],
    ids=lambda value: value if isinstance(value, str) and re.fullmatch(r"[\w-]+", value) else None,
)
def test_rows_of_the_vendor_s_table(
    model: str,
    objective: str,
    motif: str,
    set_size: int,
    image_size: int,
    extra: str,
    published: tuple[float, float] | None,
) -> None:
    found = configure(model, {"objective": objective}, ROWS)
    assert (found.motif, found.set_size, found.image_size) == (motif, set_size, image_size)
    assert (" ".join(found.extra), found.published, found.notes) == (extra, published, ())


def test_sizes_that_are_not_224() -> None:
    found = {row["MODEL_NAME"]: cell(row, "IMAGE_SIZE") for row in ROWS if row["IMAGE_SIZE"] != "224"}
    assert found == {
        **{"efficientnet_b1": 240, "efficientnet_b2": 260, "efficientnet_b3": 300, "efficientnet_b4": 380},
        **{"efficientnet_b5": 456, "efficientnet_b6": 528, "efficientnet_b7": 600, "inception_v3": 299},
        **{"efficientnet_v2_s": 384, "efficientnet_v2_m": 480, "efficientnet_v2_l": 480},
    }


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_a_row_configures_a_card_of_the_zoo(row: Row) -> None:
    name, objective = row["MODEL_NAME"], row["OBJECTIVE"]
    card = find_card(name, CARDS)
    assert "zoo" in card.tags
    assert cell(row, "IMAGE_SIZE") == OTHER_SIZE.get(name, card.input.size[0])
    assert card.input.size[0] == card.input.size[1]
    found = configure(name, {"objective": objective}, ROWS)
    assert found.cores * found.instances <= NSPS
    assert (found.notes, found.objective) == ((), objective)
    assert all(origin == "table" for option, origin in found.origins.items() if row[column(option)])
    # What the table says could be said by options, too.
    for option in ("cores", "instances", "ols", "set-size", "mos", "batch-size"):
        assert not row[column(option)] or OPTIONS[option].allows(row[column(option)])
    command = compile_command("qaic-exec", found, {})
    assert len({flag.partition("=")[0] for flag in command}) == len(command)
    # Clusters share the cores among them, and each has its split of output channels.
    for flag in (flag for flag in found.extra if flag.startswith("-sdp-cluster-sizes=")):
        clusters = [int(size) for size in flag.partition("=")[2].split(",")]
        assert sum(clusters) == found.cores
        assert len(clusters) == len(found.mos.split(","))


def test_the_emulated_compiler_takes_the_flags_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EMULATORS))
    spec = spec_from_file_location("emulated_compiler", EMULATORS / "compiler.py")
    assert spec is not None
    assert spec.loader is not None
    compiler = module_from_spec(spec)
    spec.loader.exec_module(compiler)
    for row in ROWS:
        found = configure(row["MODEL_NAME"], {"objective": row["OBJECTIVE"]}, ROWS)
        told = compiler.parse("qaic-exec", compile_command("qaic-exec", found, {"batch_size": 1})[1:])
        assert told.get("mos", [""]) == [row["MOS"]]
        assert len(told) == 10 + len(found.extra) + bool(found.mos)


def column(option: str) -> str:
    return option.upper().replace("-", "_")


@pytest.mark.parametrize("row", MEASURED, ids=ids(MEASURED))
def test_the_vendor_s_figures_obey_little_s_law(row: Row) -> None:
    waiting = cell(row, "INSTANCES") * cell(row, "SET_SIZE") * cell(row, "BATCH_SIZE")
    mean = 1e3 * waiting / float(row["THPS"])
    # Latencies are rounded to a tenth of a millisecond.
    low, high = float(row["LATENCY"]) - 0.05, float(row["LATENCY"]) + 0.05
    assert low / mean <= LITTLE[1]
    assert high / mean >= LITTLE[0]


def classifier(side: int) -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.eye(3, 4, dtype=np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "w"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.aic100
def test_the_size_of_a_row_is_only_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Emulated(tmp_path, monkeypatch).install()
    target = Aic100Target().for_model("efficientnet_b2")
    made = target.compile(classifier(288), "force_float16", tmp_path / "made")
    stored = made["configuration"]
    assert (stored["batch_size"], stored["image_size"], stored["published"]) == (2, 288, None)
    assert stored["notes"] == ["the table's row is for size 260, the model takes 3x288x288"]


@pytest.mark.aic100
def test_a_model_of_two_clusters_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Emulated(tmp_path, monkeypatch).install()
    target = Aic100Target().configured({"objective": "best-latency"}).for_model("resnet-50")
    made = target.compile(classifier(224), "force_float16", tmp_path / "made")
    motif = "B1-C14-A1-OLS1-MOS1,7-best-latency"
    assert (tmp_path / "made" / f"compiled-bin-fp16-{motif}" / "programqpc.bin").is_file()
    assert made["command"].endswith(
        f"-aic-num-cores=14 -ols=1 -convert-to-fp16 -compile-only "
        f"-aic-binary-dir=./compiled-bin-fp16-{motif} -stats-batchsize=1 "
        "-sdp-cluster-sizes=7,7 -multicast-weights -use-producer-dma=1 -mos=1,7"
    )
