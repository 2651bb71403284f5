"""Options of targets: declared, checked, part of an artifact's key, and given on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import onnx
import pytest
from typer.testing import CliRunner

import topfive
from topfive import targets
from topfive.cli import app
from topfive.command_line.options import target_options
from topfive.errors import OptionError, RunError, TopfiveError
from topfive.targets.base import Artifact, Runner, Target, TargetOption


class Oven(Target):
    """A target with options and nothing else."""

    name: ClassVar[str] = "oven"
    quants: ClassVar[tuple[str, ...]] = ("int8",)
    options: ClassVar[Mapping[str, TargetOption]] = MappingProxyType(
        {
            "heat": TargetOption(("low", "high"), "low", "how hot"),
            "fan": TargetOption(("on", "off"), "off", "whether air moves"),
        }
    )

    def versions(self) -> dict[str, str]:
        return {}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        return {"heat": self.setting("heat")}

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        raise RunError("an oven runs nothing")


def test_a_configured_target_is_a_copy_and_forgets_defaults() -> None:
    oven = Oven()
    hot = oven.configured({"heat": "high", "fan": "off"})
    assert (dict(hot.settings), hot.setting("heat"), hot.setting("fan")) == ({"heat": "high"}, "high", "off")
    assert (dict(oven.settings), oven.setting("heat")) == ({}, "low")
    assert dict(oven.configured({"heat": "low"}).settings) == {}
    assert list(oven.configured({"heat": "high", "fan": "on"}).settings) == ["fan", "heat"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"heet": "low"}, ["oven", "'heet'", "heat, fan"]),
        ({"heat": "hot"}, ["oven", "'heat'", "'hot'", "low, high"]),
        ({"heat": ""}, ["''", "low, high"]),
    ],
    ids=["name", "value", "empty"],
)
def test_unknown_options_are_named_with_what_is_allowed(chosen: dict[str, str], words: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        Oven().configured(chosen)
    assert isinstance(caught.value, TopfiveError)
    assert all(word in caught.value.message for word in words)


def test_every_installed_target_declares_its_options_well() -> None:
    for name in targets.names():
        for option in targets.get(name).options.values():
            assert option.help
            assert option.choices
            # "" stands for a default that cannot be chosen by name.
            assert option.allows(option.default) or option.default == ""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_options_are_in_the_key_and_the_artifact(cache: Path) -> None:
    build = {"target": "gemmini_sim", "quant": "int8", "cache": cache}
    plain = topfive.build("pocket_resnet", **build)
    assert plain.options == {}
    assert "options" not in plain.meta
    assert topfive.build("pocket_resnet", options={}, **build).path == plain.path
    chosen = {"execution": "0", "optimization": "99"}
    emulated = topfive.build("pocket_resnet", options=chosen, **build)
    assert emulated.options == emulated.meta["options"] == chosen
    assert emulated.path != plain.path
    with topfive.open(emulated.path) as runner:
        assert runner.artifact.options == chosen
    keys = {emulated.path, plain.path}
    for execution, optimization in (("0", "1"), ("2", "1"), ("2", "99")):
        options = {"execution": execution, "optimization": optimization}
        keys.add(topfive.build("pocket_resnet", options=options, **build).path)
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("chosen", "both"),
    [
        ({"execution": "0"}, {"execution": "0", "optimization": "1"}),
        ({"optimization": "99"}, {"execution": "2", "optimization": "99"}),
    ],
    ids=["execution", "optimization"],
)
def test_one_of_the_runners_options_gets_the_runners_other(
    chosen: dict[str, str], both: dict[str, str]
) -> None:
    assert dict(targets.get("gemmini_sim").configured(chosen).settings) == both


def test_errors_repeat_with_the_options(cache: Path) -> None:
    with pytest.raises(TopfiveError) as caught:
        topfive.build(
            "pocket_resnet", target="gemmini_sim", quant="int8", cache=cache, options={"execution": "1"}
        )
    assert str(caught.value).endswith(
        "repeat with: topfive build pocket_resnet --target gemmini_sim --quant int8 "
        "--option execution=1 --option optimization=1"
    )


def test_build_with_an_option_that_the_target_has_not(cache: Path) -> None:
    with pytest.raises(OptionError, match="target cpu has no option 'execution': its options are none"):
        topfive.build("pocket_fire", target="cpu", quant="int8", cache=cache, options={"execution": "0"})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, {}),
        (["a=1", "b=x=y"], {"a": "1", "b": "x=y"}),
        (["a=1", "a=1"], {"a": "1"}),
        (["a="], {"a": ""}),
    ],
    ids=["none", "two", "twice", "empty"],
)
def test_options_of_the_command_line(given: list[str] | None, found: dict[str, str]) -> None:
    assert target_options(given) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [(["a"], "not NAME=VALUE"), (["=1"], "not NAME=VALUE"), (["a=1", "a=2"], "give it once")],
    ids=["no_value", "no_name", "two_values"],
)
def test_malformed_options_of_the_command_line(given: list[str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        target_options(given)


def test_targets_lists_options() -> None:
    text = CliRunner().invoke(app, ["targets"], catch_exceptions=False).stdout
    assert "  --option execution=0|1|2: " in text
    assert "  --option optimization=0|1|2|99: " in text
    rows = json.loads(CliRunner().invoke(app, ["targets", "--json"], catch_exceptions=False).stdout)
    options = {row["name"]: row["options"] for row in rows}
    assert options["cpu"] == {}
    assert options["gemmini_sim"]["execution"]["values"] == ["0", "1", "2"]
