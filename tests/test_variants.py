"""Variants: a target with options chosen, named TARGET+OPTION=VALUE, as a case of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported here for pytest inside pytest, which forgets modules that it was the first to load: native ones
# cannot be loaded twice.
import numpy as np
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import PIL.Image  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import topfive
from topfive import targets
from topfive.cards import load_cards
from topfive.cli import app
from topfive.errors import CardError, OptionError, UnknownNameError
from topfive.golden import golden_path, read_golden
from topfive.suite.selection import Choice, Selection, SelectionError
from topfive.suite.settings import read_settings

from sweeps import REPOSITORY
from topfive_command import run_topfive

PLAIN, OPTION, VALUE = "mlu370_sim", "weight_quant_granularity", "per_axis"
VARIANT = f"{PLAIN}+{OPTION}={VALUE}"
QUANT = "qint8_mixed_float16"
MODEL = "pocket_fire"
TABLE = f"""
[[variant]]
target = "{VARIANT}"
quants = ["{QUANT}"]
kinds = ["golden", "accuracy"]
"""
TESTS = """
import pytest
@pytest.mark.golden
def test_golden(golden, runner, pictures):
    golden.check(runner, pictures)
@pytest.mark.latency
def test_latency(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
"""


# Names


def test_a_variant_s_name_chooses_options() -> None:
    variant = targets.get(VARIANT)
    assert (variant.name, dict(variant.settings)) == (PLAIN, {OPTION: VALUE})
    assert targets.get(PLAIN).settings == {}
    assert targets.plain_name(VARIANT) == targets.plain_name(PLAIN) == PLAIN
    assert VARIANT not in targets.names()
    two = "mlu370+archs=S4+batch_size=8"
    assert dict(targets.get(two).settings) == {"archs": "S4", "batch_size": "8"}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (f"{PLAIN}+{OPTION}", OptionError, "not of the form TARGET\\+OPTION=VALUE"),
        (f"{PLAIN}+", OptionError, "not of the form"),
        (f"{PLAIN}+=x", OptionError, "not of the form"),
        (f"{PLAIN}+speed=high", OptionError, "has no option 'speed'"),
        (f"{PLAIN}+{OPTION}=per_row", OptionError, "choose per_tensor, per_axis"),
        (f"{PLAIN}+{OPTION}=per_tensor", OptionError, f"must be written '{PLAIN}'$"),
        ("mlu370+batch_size=8+archs=S4", OptionError, r"must be written 'mlu370\+archs=S4\+batch_size=8'"),
        ("mlu370+dynamic_shape=false", OptionError, r"must be written 'mlu370\+shape_mutable=false'"),
        (f"mlu37_sim+{OPTION}={VALUE}", UnknownNameError, "mlu370_sim"),
    ],
    ids=["no-value", "empty", "no-name", "option", "value", "default", "order", "alias", "target"],
)
def test_names_of_no_variant(name: str, error: type[Exception], words: str) -> None:
    """One name only for one variant: it is the key of goldens and records."""
    with pytest.raises(error, match=words):
        targets.get(name)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_-]{1,9}", fullmatch=True), st.from_regex(r"[^+=]{0,9}", fullmatch=True)
    )
)
def test_a_name_is_split_into_its_options(options: dict[str, str]) -> None:
    name = "+".join(["cpu", *(f"{option}={value}" for option, value in options.items())])
    assert targets.split_name(name) == ("cpu", options)


def test_a_variant_is_the_artifact_of_its_options(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"quant": QUANT, "cache": tmp_path}
    by_name = topfive.build(MODEL, target=VARIANT, **arguments)
    by_option = topfive.build(MODEL, target=PLAIN, options={OPTION: VALUE}, **arguments)
    plain = topfive.build(MODEL, target=PLAIN, **arguments)
    assert (by_name.key, by_name.target, by_name.options) == (by_option.key, PLAIN, {OPTION: VALUE})
    assert by_name.key != plain.key
    batch = np.random.default_rng(2).normal(size=(2, 3, 64, 64)).astype(np.float32)
    with topfive.open(by_name, threads=1) as one, topfive.open(plain, threads=1) as other:
        assert not np.array_equal(one.run(batch), other.run(batch))


# The suite's settings


def selected(folder: Path, kind: str, text: str = TABLE, **choice: Any) -> list[tuple[str, str]]:
    (folder / "suite.toml").write_text(text, encoding="utf-8")
    selection = Selection(load_cards(), Choice((MODEL,), **choice), folder)
    selection.validate()
    found = selection.cases(kind, batched=False)
    return [(case.target, case.quant) for case in found if case.target.startswith(PLAIN)]


def test_variants_come_after_the_cases_that_there_were(tmp_path: Path) -> None:
    for kind in ("golden", "accuracy"):
        before = selected(tmp_path, kind, "")
        assert len(before) == 3
        assert selected(tmp_path, kind) == [*before, (VARIANT, QUANT)]
    assert selected(tmp_path, "latency") == selected(tmp_path, "latency", "")


def test_targets_that_are_named_are_the_ones_that_run(tmp_path: Path) -> None:
    assert selected(tmp_path, "golden", targets=(PLAIN,), quants=(QUANT,)) == [(PLAIN, QUANT)]
    assert selected(tmp_path, "golden", targets=(VARIANT,)) == [(VARIANT, QUANT)]
    assert selected(tmp_path, "latency", targets=(VARIANT,)) == [(VARIANT, QUANT)]
    # One that the settings do not name has all of its target's quant modes.
    assert len(selected(tmp_path, "golden", "", targets=(VARIANT,))) == 3
    with pytest.raises(SelectionError, match=r"its force_float16 is its target's own"):
        selected(tmp_path, "golden", targets=(VARIANT,), quants=("force_float16",))
    with pytest.raises(OptionError, match="choose per_tensor, per_axis"):
        selected(tmp_path, "golden", targets=(f"{PLAIN}+{OPTION}=per_row",))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (VARIANT, PLAIN, r"variant\[0\].target' must choose options: TARGET\+OPTION=VALUE"),
        (VALUE, "per_row", r"variant\[0\].target': option 'weight_quant_granularity' .* cannot be 'per_row'"),
        (QUANT, "int8", r"variant\[0\].quants': mlu370_sim runs force_float32"),
        (f'"{QUANT}"', "", r"variant\[0\].quants' must be some of force_float32"),
        ("accuracy", "beauty", r"variant\[0\].kinds' must be some of golden, latency"),
        ("kinds", "kind", "unknown key 'variant\\[0\\].kind': did you mean 'kinds'"),
        (TABLE, TABLE + TABLE, r"variant\[1\].target': .* is there twice"),
        (TABLE, 'variant = "x"', r"must be \[\[variant\]\] tables"),
    ],
    ids=["no-option", "value", "quant", "no-quant", "kind", "key", "twice", "no-table"],
)
def test_malformed_variants_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(TABLE.replace(old, new), encoding="utf-8")
    with pytest.raises(CardError, match=words):
        read_settings(path)


def test_every_golden_of_a_variant_is_one_of_the_suite_s() -> None:
    declared = {
        variant.target: variant for variant in read_settings(REPOSITORY / "bench/suite.toml").variants
    }
    found = [read_golden(path) for path in sorted((REPOSITORY / "golden").glob("*/*+*.json"))]
    assert {golden.target for golden in found} == set(declared)
    for golden in found:
        assert golden.quant in declared[golden.target].quants
        plain = read_golden(golden_path(REPOSITORY / "golden", golden.model, PLAIN, golden.quant))
        assert plain.artifact != golden.artifact
        assert [image.file for image in plain.images] == [image.file for image in golden.images]


# Sessions


@pytest.fixture
def session(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., pytest.RunResult]:
    monkeypatch.setenv("TOPFIVE_CACHE", str(tmp_path / "cache"))
    for variable in ("CI", "TOPFIVE_CARDS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)
    accuracy = (REPOSITORY / "bench/test_accuracy.py").read_text(encoding="utf-8")
    for name, text in (
        ("pytest.ini", "[pytest]\nstrict = true\naddopts = -ra\n"),
        ("bench/suite.toml", TABLE),
        ("bench/test_case.py", TESTS),
        ("bench/test_sweeping.py", accuracy),
    ):
        place = pytester.path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def run(*arguments: object) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--models", MODEL, *map(str, arguments))

    return run


def test_a_session_keeps_variant_and_plain_apart(
    session: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """By marker, in goldens, in the table, and in records."""
    records = pytester.path / "records"
    asked = ("-m", f"{PLAIN} and golden", "--quant", QUANT, "--records", records)
    session(*asked, "--update-golden").assert_outcomes(passed=2)
    found = {path.name: json.loads(path.read_text()) for path in (pytester.path / "golden").glob("*/*.json")}
    assert {name: (golden["target"], golden["quant"]) for name, golden in found.items()} == {
        f"{PLAIN}-{QUANT}.json": (PLAIN, QUANT),
        f"{VARIANT}-{QUANT}.json": (VARIANT, QUANT),
    }
    again = session(*asked, "-v")
    again.assert_outcomes(passed=2)
    text = again.stdout.str()
    assert f"test_golden[{MODEL}-{PLAIN}-{QUANT}] PASSED" in text
    assert f"test_golden[{MODEL}-{VARIANT}-{QUANT}] PASSED" in text
    assert f"{VARIANT}~ {QUANT}" in text
    assert f"~ {VARIANT} is simulated: MagicMind's documented arithmetic" in text
    newest = max(records.glob("*session*.json"), key=lambda path: path.stat().st_mtime_ns)
    cases = [entry["case"]["target"] for entry in json.loads(newest.read_text())["tests"]]
    assert sorted(cases) == [PLAIN, VARIANT]


def test_a_golden_of_a_variant_is_not_its_target_s(
    session: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    one = ("-m", "golden", "--targets", VARIANT, "--quant", QUANT, "--no-record")
    session(*one, "--update-golden").assert_outcomes(passed=1)
    folder = pytester.path / "golden" / MODEL
    (folder / f"{VARIANT}-{QUANT}.json").rename(folder / f"{PLAIN}-{QUANT}.json")
    failed = session(*one)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines([f"*{VARIANT}-{QUANT}.json is missing: run pytest --update-golden*"])


def test_a_sweep_by_command_keeps_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--targets", f"{PLAIN},{VARIANT}", "--quant", QUANT, "--count", "8", "--no-record"]
    places = ["--artifact-cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    command = ["sweep", MODEL, *arguments, *places, "--format", "magicmind", "--workers", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"{VARIANT}~" in done.output
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == sorted([f"{MODEL}-{PLAIN}-{QUANT}", f"{MODEL}-{VARIANT}-{QUANT}"])


def test_loadgen_s_runs_by_command_keep_them_apart(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    places = [f"--artifact-cache={tmp_path / 'cache'}", f"--records={tmp_path / 'records'}"]
    places += [f"--logs={tmp_path / 'logs'}", f"--tree={tmp_path / 'tree'}"]
    asked = ["-m", MODEL, "--target", VARIANT, "--quant", QUANT, "--scenario", "accuracy-offline", *places]
    code, shown, _ = run_topfive("scenario", *asked, "--json")
    assert (code, json.loads(shown)["target"]) == (0, VARIANT)
    (record,) = (tmp_path / "records").glob("*-scenario-*.json")
    (test,) = json.loads(record.read_text())["tests"]
    assert test["case"] == {"model": MODEL, "target": VARIANT, "quant": QUANT}
    assert list((tmp_path / "tree").rglob(f"{VARIANT}-{QUANT}"))


def test_a_sweep_of_a_variant_is_its_own_record(
    session: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    records = pytester.path / "records"
    quants = f"{QUANT},force_float32"
    asked = ("-m", f"accuracy and {PLAIN}", "--quant", quants, "--count", "16", "--shards", "2")
    done = session(*asked, "--records", records)
    done.assert_outcomes(passed=6)
    (row,) = [line.split() for line in done.outlines if line.startswith(f"{MODEL} {VARIANT}~ {QUANT} ")]
    # Pictures, then top-1 and top-5 with their intervals; then agreement with its target's float32.
    assert (row[3], float(row[8])) == ("16", 100.0)
    (record,) = records.glob("*-session-*.json")
    plans = [test["sweep"]["plan"] for test in json.loads(record.read_text())["tests"]]
    found = [(plan["target"], plan["quant"], plan["options"]) for plan in plans]
    assert sorted(found) == [
        (PLAIN, "force_float32", []),
        (PLAIN, QUANT, []),
        (VARIANT, QUANT, [[OPTION, VALUE]]),
    ]
