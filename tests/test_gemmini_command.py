"""`topfive gemmini cycles` and `explore`, and cycles as part of goldens."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

import topfive
from topfive.cli import app
from topfive.errors import TopfiveError
from topfive.golden import golden_path, read_golden
from topfive.targets.gemmini.cycles import model_cycles, model_layers
from topfive.targets.gemmini.target import INT8_FILE

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gemmini", *map(str, arguments)], catch_exceptions=False)


def test_cycles_prints_every_layer_and_both_totals(cache: Path) -> None:
    result = invoke("cycles", "-m", "pocket_fire", "--artifact-cache", cache, "--batch", 4)
    assert result.exit_code == 0
    assert "modelled cycles" in result.output
    lines = result.output.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith(("bus", "estimate:"))] == [
        "bus",
        "estimate",
    ]
    assert "pull request 90" in result.output
    assert sum("Conv" in line for line in lines) >= 10


def test_json_rows_sum_to_the_summary(cache: Path) -> None:
    result = invoke("cycles", "-m", "pocket_resnet", "--artifact-cache", cache, "--json")
    found = json.loads(result.stdout)
    assert found["summary"]["modelled"] is True
    for figure in ("bus", "estimate"):
        assert sum(row[figure] for row in found["layers"]) == found["summary"][f"{figure}_cycles"]


def test_the_table_shows_the_bytes_that_a_layer_moves(cache: Path) -> None:
    options = ("-m", "pocket_resnet", "--artifact-cache", cache)
    rows = {row["name"]: row for row in json.loads(invoke("cycles", *options, "--json").stdout)["layers"]}
    header, *lines = invoke("cycles", *options).stdout.splitlines()[1:]
    end = header.index("kB moved") + len("kB moved")
    shown = {line.split()[0]: line[:end].split()[-1] for line in lines if line.split()[0] in rows}
    assert len(shown) == 18
    for name, moved in shown.items():
        assert moved == f"{(rows[name]['load_bytes'] + rows[name]['store_bytes']) / 1e3:.1f}"


def test_an_exploration_without_a_possible_design_is_an_error(cache: Path) -> None:
    with pytest.raises(TopfiveError, match=r"^no design is possible: 7x7, .*choose multiples of 28"):
        invoke("explore", "-m", "pocket_fire", "--artifact-cache", cache, "--dim", 7)


def test_explore_marks_the_front_and_draws_it(cache: Path, tmp_path: Path) -> None:
    plot = tmp_path / "pareto.svg"
    options = ("--dim", "8,16", "--scratchpad", "128K,256K", "--artifact-cache", cache)
    result = invoke("explore", "-m", "pocket_fire", *options, "--plot", plot)
    assert result.exit_code == 0
    assert any(line.startswith("*") for line in result.output.splitlines())
    assert ElementTree.fromstring(plot.read_text()).tag.endswith("svg")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--dim", "abc"), ("--dim", "0"), ("--scratchpad", "many"), ("--hardware", "defualt")],
    ids=["words", "zero", "capacity", "unknown"],
)
def test_bad_parameters_are_said(option: str, value: str, cache: Path) -> None:
    with pytest.raises(TopfiveError):
        invoke("explore", "-m", "pocket_fire", "--artifact-cache", cache, option, value)


@pytest.mark.parametrize("model", ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"])
def test_goldens_hold_the_modelled_cycles(model: str, cache: Path) -> None:
    golden = read_golden(golden_path(GOLDEN, model, "gemmini_sim", "int8"))
    artifact = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    assert artifact.meta["modelled_cycles"] == golden.modelled_cycles
    import onnx

    int8 = onnx.load(artifact.path / INT8_FILE)
    for batch, figures in golden.modelled_cycles.items():
        modelled = model_cycles(model_layers(int8, int(batch)), batch=int(batch))
        assert figures == {
            "ideal": modelled.ideal,
            "bus": modelled.cycles("bus"),
            "estimate": modelled.cycles("estimate"),
        }
