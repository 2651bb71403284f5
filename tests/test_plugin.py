"""The pytest plugin, by running pytest on small suites: selection, verdicts, skips, guards and the table."""

from __future__ import annotations

import csv
import json
import os

# Imported here for pytest inside pytest, which forgets modules that it was the first to load: native ones
# cannot be loaded twice.
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import PIL.Image  # noqa: F401
import pytest

import topfive.pipeline  # noqa: F401
from topfive.suite import exclusive
from topfive.suite.options import DESIGN_QUANTS, DESIGN_TARGETS
from topfive.suite.settings import KINDS
from topfive.targets import QUANT_MODES, names

CARD = """
name = "{name}"
description = "a card of these tests"
tags = [{tags}]
{flags}
[source]
kind = "bundled"
path = "models/{file}"
{sha256}
[input]
size = [64, 64]
profile = "pocket64"
[output]
kind = "logits"
classes = 100
labels = "pocket100"
[pictures]
set = "pocket100"
count = {count}
"""
GOLDEN_TEST = """
import pytest
@pytest.mark.golden
def test_golden(golden, runner, pictures):
    golden.check(runner, pictures)
"""
SPEED_TESTS = """
import pytest
@pytest.mark.latency
def test_latency(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
@pytest.mark.throughput
def test_throughput(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
"""
# These tests count cases, whatever other targets are installed.
TWO_TARGETS = """
import topfive.targets
def pytest_configure(config):
    names = topfive.targets.names
    topfive.targets.names = lambda: ("cpu", "gemmini_sim")
    config.add_cleanup(lambda: setattr(topfive.targets, "names", names))
"""
SETTINGS = """
golden.models = ["tag:mine"]
latency = {models = ["tag:mine"], max_seconds = 0.02, least_rounds = 3}
throughput = {models = ["tag:mine"], batches = [1, 2], max_seconds = 0.02, least_rounds = 3}
"""
USAGE = pytest.ExitCode.USAGE_ERROR
ONE = ("--targets", "cpu", "--quant", "force_float32")


def card(name, *, tags='"mine"', flags="", file="pocket_fire.onnx", sha256="", count=3):
    text = CARD.format(name=name, tags=tags, flags=flags, file=file, sha256=sha256, count=count)
    return {f"cards/{name}.toml": text}


@pytest.fixture(scope="session")
def artifact_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("artifact_cache")


@pytest.fixture
def suite(pytester, monkeypatch, artifact_cache):
    """A folder with one card, settings and tests; call it with arguments of pytest."""
    monkeypatch.setenv("TOPFIVE_CACHE", str(artifact_cache))
    for variable in (
        "CI",
        "TOPFIVE_CARDS",
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
    ):
        monkeypatch.delenv(variable, raising=False)

    class Suite:
        path = pytester.path

        def write(self, files):
            for name, text in files.items():
                place = pytester.path / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")

        def run(self, *arguments, subprocess=False):
            run = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
            return run("-p", "no:cacheprovider", "--cards", str(pytester.path / "cards"), *arguments)

        def ids(self, *arguments):
            found = self.run("--collect-only", "-q", *arguments)
            return [line for line in found.outlines if "::" in line]

    made = Suite()
    made.write(
        {
            "pytest.ini": "[pytest]\nstrict = true\naddopts = -ra\n",
            "conftest.py": TWO_TARGETS,
            "bench/suite.toml": SETTINGS,
            "bench/test_right.py": GOLDEN_TEST,
            "bench/test_fast.py": SPEED_TESTS,
            **card("tiny"),
        }
    )
    return made


# Selection


def test_ids_are_stable(suite):
    assert suite.ids() == [
        *(f"bench/test_fast.py::test_latency[tiny-{c}-b1]" for c in CASES),
        *(f"bench/test_fast.py::test_throughput[tiny-{c}-b{b}]" for c in CASES for b in (1, 2)),
        *(f"bench/test_right.py::test_golden[tiny-{c}]" for c in CASES),
    ]


CASES = ("cpu-force_float32", "cpu-force_float16", "cpu-int8", "gemmini_sim-int8")


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("-m", "gemmini_sim"), 4),
        (("-m", "int8 and golden"), 2),
        (("--targets", "cpu"), 12),
        (("--quant", "int8"), 8),
        (("--models", "tin?"), 16),
        (("--models", "tag:mine", *ONE), 4),
        (("--models", "tiny,pocket_fire", *ONE), 8),
        (("--batch-sizes", "1,3,16", *ONE), 7),
        (("--models", "tag:light", "-m", "golden", *ONE), 9),
    ],
    ids=lambda value: "_".join(value).replace("--", "") if isinstance(value, tuple) else str(value),
)
def test_selection(suite, arguments, count):
    assert len(suite.ids(*arguments)) == count


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "pocket_resnt"), ["unknown model 'pocket_resnt'", "pocket_resnet"]),
        (("--models", "tag:bundeld"), ["unknown tag 'bundeld'", "bundled"]),
        (("--models", "nothing*"), ["unknown model 'nothing*'"]),
        (("--targets", "gemini_sim"), ["unknown target 'gemini_sim'", "gemmini_sim"]),
        (("--quant", "int9"), ["unknown quant mode 'int9'", "int8"]),
        (("--quant", ","), ["--quant"]),
        (("--batch-sizes", "0"), ["--batch-sizes", "'0'"]),
        (("--threads", "none"), ["--threads", "'none'"]),
        (("--cpu-kernels", "fast"), ["--cpu-kernels", "native"]),
        (("--imagenet", "nowhere"), ["--imagenet nowhere", "no such folder"]),
        (("--cards", "nowhere"), ["card folder nowhere does not exist"]),
        (("--topfive-csv", "no/where.csv"), ["--topfive-csv", "folder"]),
        (("--targets", "gemmini_sim", "--quant", "force_float32"), ["nothing to run", "int8 build"]),
        (("--models", "tiny", "--quant", "as_is"), ["nothing to run", "float model"]),
        (("--models", "ready", "--quant", "int8"), ["nothing to run", "already quantised"]),
        (("--models", "tiny,ready", "--quant", "int8"), ["ready", "already quantised"]),
        (("--targets", "cpu,gemmini_sim", "--quant", "force_float16"), ["gemmini_sim", "int8 build"]),
    ],
    ids=lambda value: "_".join(value).replace("--", "") if isinstance(value, tuple) else "",
)
def test_what_does_not_exist_is_a_usage_error(suite, arguments, words):
    suite.write(card("ready", flags="quantised = true"))
    found = suite.run(*arguments)
    assert found.ret == USAGE
    errors = "\n".join(found.errlines)
    assert all(word in errors for word in words), errors
    assert "Traceback" not in errors


def test_a_glob_may_match_models_that_do_not_apply(suite):
    suite.write(card("ready", flags="quantised = true"))
    ids = suite.ids("--models", "*y", "--quant", "int8", "-m", "golden")
    assert [name.partition("[")[2] for name in ids] == ["tiny-cpu-int8]", "tiny-gemmini_sim-int8]"]


def test_a_quantised_model_has_the_mode_as_is_only(suite):
    suite.write(card("ready", flags="quantised = true"))
    ids = suite.ids("--models", "ready", "-m", "golden")
    assert [name.partition("[")[2] for name in ids] == ["ready-cpu-as_is]", "ready-gemmini_sim-as_is]"]


def test_a_folder_of_cards_can_come_from_the_environment(suite, monkeypatch):
    suite.write({"more/other.toml": card("other")["cards/other.toml"]})
    monkeypatch.setenv("TOPFIVE_CARDS", str(suite.path / "more"))
    assert len(suite.ids("--models", "other", "-m", "golden")) == len(CASES)


def test_a_malformed_card_is_a_usage_error(suite):
    suite.write({"cards/bad.toml": "name = 3"})
    found = suite.run()
    assert found.ret == USAGE
    found.stderr.fnmatch_lines(["ERROR: *bad.toml*"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('golden.models = ["nobody"]', "'nobody' matches no card"),
        ("golden.model = []", "did you mean 'models'"),
        ("throughput.batches = [0]", "throughput.batches"),
    ],
    ids=["model", "key", "batch"],
)
def test_malformed_settings_are_a_usage_error(suite, text, words):
    suite.write({"bench/suite.toml": text})
    found = suite.run()
    assert found.ret == USAGE
    assert words in "\n".join(found.errlines)


def test_every_marker_is_registered(suite):
    lines = suite.run("--markers").outlines
    registered = {line.partition(":")[0].removeprefix("@pytest.mark.") for line in lines}
    wanted = {*DESIGN_TARGETS, *DESIGN_QUANTS, *names(), *QUANT_MODES, *KINDS, "slow", "realdata"}
    assert wanted <= registered


def test_tests_of_others_are_left_alone(pytester):
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("model,target,quant", [("a", "b", "c")])
        def test_mine(model, target, quant):
            assert (model, target, quant) == ("a", "b", "c")
        """
    )
    found = pytester.runpytest_inprocess()
    found.assert_outcomes(passed=1)
    found.stdout.no_fnmatch_line("*= topfive =*")


def test_collection_reads_each_card_once_and_loads_no_runtime(suite):
    for number in range(50):
        suite.write(card(f"net{number:02}"))
    suite.write(
        {
            "conftest.py": TWO_TARGETS
            + """
import sys
import topfive.cards.loader as loader
reads = []
load_card = loader.load_card
def counted(path):
    reads.append(path)
    return load_card(path)
loader.load_card = counted
def pytest_sessionfinish():
    assert len(reads) == len(set(reads)), "a card was read twice"
    loaded = {"onnx", "onnxruntime", "torch"} & set(sys.modules)
    assert not loaded, f"loaded: {loaded}"
"""
        }
    )
    found = suite.run("--collect-only", "-q", subprocess=True)
    assert found.ret == 0, "\n".join(found.errlines)
    assert sum("::test_golden" in line for line in found.outlines) == 51 * len(CASES)


# Goldens


def test_golden_missing_made_kept_broken(suite):
    missing = suite.run("-m", "golden", *ONE)
    missing.assert_outcomes(failed=1)
    text = missing.stdout.str()
    assert "cpu-force_float32.json is missing: run pytest --update-golden" in text
    assert "Traceback" not in text
    assert "golden_check.py" not in text

    made = suite.run("-m", "golden", "--update-golden", *ONE)
    made.assert_outcomes(passed=1)
    made.stdout.fnmatch_lines(["*cpu-force_float32.json: new, 3 pictures"])
    path = suite.path / "golden" / "tiny" / "cpu-force_float32.json"
    before = path.read_bytes()

    kept = suite.run("-m", "golden", "--update-golden", *ONE)
    kept.assert_outcomes(passed=1)
    assert path.read_bytes() == before

    suite.run("-m", "golden", *ONE).stdout.fnmatch_lines(["tiny *cpu *force_float32 *exact*"])

    stored = json.loads(before)
    stored["images"][0]["top5"][0][2] = 2.0
    path.write_text(json.dumps(stored))
    broken = suite.run("-m", "golden", *ONE)
    broken.assert_outcomes(failed=1)
    broken.stdout.fnmatch_lines(
        [
            "tiny on cpu, force_float32: 1 of 3 pictures differ from *",
            "*golden (probability)*now",
            "*cosine*max error*",
            "*tolerance that passes*",
            "repeat with: pytest 'bench/test_right.py::test_golden[[]tiny-cpu-force_float32[]]' *--quant *",
            "tiny *fail*",
        ]
    )
    assert "Traceback" not in broken.stdout.str()


def test_exact_target_keeps_hashes_and_fails_on_another_bit(suite):
    case = ("-m", "golden", "--targets", "gemmini_sim")
    suite.run("--update-golden", *case).assert_outcomes(passed=1)
    path = suite.path / "golden" / "tiny" / "gemmini_sim-int8.json"
    stored = json.loads(path.read_text())
    assert stored["exact_tensors"]
    assert all(len(image["int8"]) == len(stored["exact_tensors"]) for image in stored["images"])
    suite.run(*case).assert_outcomes(passed=1)
    stored["images"][1]["int8"][0] = "0" * 64
    path.write_text(json.dumps(stored))
    found = suite.run(*case)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*exact int8 tensor *differs*"])


def test_update_golden_is_refused_under_ci(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    found = suite.run("--update-golden", *ONE)
    assert found.ret == USAGE
    found.stderr.fnmatch_lines(["ERROR: --update-golden is refused under CI*"])
    assert not (suite.path / "golden").exists()


# Expected failures


def expectation(**changes):
    row = {"model": "wr*ng", "target": "cpu", "quant": "force_float32", "stage": "fetch", "reason": "sha256"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**row, **changes}.items()]
    return {"bench/expectations.toml": "\n".join(["[[expected]]", *lines])}


def wrong_card():
    return card("wrong", sha256=f'sha256 = "{"0" * 64}"')


def test_an_expected_failure_is_an_xfail(suite):
    suite.write({**wrong_card(), **expectation()})
    found = suite.run("--models", "wrong", *ONE)
    found.assert_outcomes(xfailed=4)
    found.stdout.fnmatch_lines(["wrong *xfail*", "XFAIL *wrong-cpu-force_float32*fetch: sha256"])


def test_an_expected_failure_at_another_stage_is_a_failure(suite):
    suite.write({**wrong_card(), **expectation(stage="compile")})
    found = suite.run("--models", "wrong", "-m", "golden", *ONE)
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(
        ["fetch of wrong for cpu, force_float32: *", "repeat with: topfive build wrong *"]
    )


def test_an_expected_failure_that_works_is_a_failure(suite):
    suite.write(expectation(model="tiny"))
    found = suite.run("-m", "latency", *ONE)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*XPASS(strict)*fetch: sha256*"])


def test_an_expected_golden_mismatch_concerns_golden_tests_only(suite):
    suite.run("--update-golden", "-m", "golden", *ONE)
    path = suite.path / "golden" / "tiny" / "cpu-force_float32.json"
    stored = json.loads(path.read_text())
    stored["images"][0]["top5"][0][2] = 2.0
    path.write_text(json.dumps(stored))
    suite.write(expectation(model="tiny", stage="golden"))
    suite.run("-m", "golden or latency", *ONE).assert_outcomes(xfailed=1, passed=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "nobody"}, "matches no case"),
        ({"quant": "int9"}, "matches no case"),
        ({"stage": "link"}, "must be one of fetch"),
        ({"reason": " "}, "say why"),
        ({"modle": "x"}, "did you mean 'model'"),
    ],
    ids=["model", "quant", "stage", "reason", "key"],
)
def test_a_wrong_expectation_is_a_usage_error(suite, changes, words):
    suite.write({**wrong_card(), **expectation(**changes)})
    found = suite.run()
    assert found.ret == USAGE
    assert words in "\n".join(found.errlines)


def test_two_expectations_of_one_case_are_a_usage_error(suite):
    row = expectation()["bench/expectations.toml"]
    suite.write({**wrong_card(), "bench/expectations.toml": f"{row}\n{row.replace('wr*ng', 'wrong')}"})
    found = suite.run()
    assert found.ret == USAGE
    assert "both claim wrong-cpu-force_float32" in "\n".join(found.errlines)


# Skips


def test_a_model_that_is_not_here_skips_with_the_reason(suite):
    suite.write(card("absent", file="nowhere.onnx"))
    found = suite.run("--models", "absent", *ONE)
    found.assert_outcomes(skipped=4)
    found.stdout.fnmatch_lines(["SKIPPED*absent: model not found*nowhere.onnx"])
    found.stdout.no_fnmatch_line("*= topfive =*")


def test_a_target_that_is_not_here_skips_with_the_reason(suite, monkeypatch):
    monkeypatch.setattr("topfive.targets.cpu.CpuTarget.probe", lambda self: "no such device")
    found = suite.run("-m", "golden", *ONE)
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines(["SKIPPED*cpu: no such device"])


# Benchmarks


def test_benchmarks_save_what_is_needed_to_read_them(suite):
    suite.run("-m", "throughput", "--benchmark-json=out.json", *ONE).assert_outcomes(passed=2)
    rows = json.loads((suite.path / "out.json").read_text())["benchmarks"]
    row = rows[1]
    assert row["name"] == "test_throughput[tiny-cpu-force_float32-b2]"
    assert row["group"] == "tiny cpu"
    assert row["params"] == {"model": "tiny", "target": "cpu", "quant": "force_float32", "batch": 2}
    info, data = row["extra_info"], row["stats"]["data"]
    assert info["p50"] <= info["p90"] <= info["p99"] <= max(data)
    assert info["images_per_s"] == pytest.approx(2 * len(data) / sum(data))
    assert info["preprocess_s"] > 0
    assert len(info["artifact"]) == 64
    assert info["threads"] >= 1
    assert {"onnxruntime", "numpy", "pillow", "onnx", "topfive"} <= info["versions"].keys()
    assert isinstance(info["cpu_features"], list)


def test_saved_runs_keep_raw_rounds_and_can_be_compared(suite):
    suite.run("-m", "latency", "--benchmark-autosave", *ONE).assert_outcomes(passed=1)
    (saved,) = (suite.path / ".benchmarks").rglob("*.json")
    assert json.loads(saved.read_text())["benchmarks"][0]["stats"]["data"]
    compared = suite.run("-m", "latency", "--benchmark-compare=0001", "--targets", "cpu", "--quant", "int8")
    compared.stdout.fnmatch_lines(
        [
            "not compared with *: 1 benchmarks only in this run: *tiny-cpu-int8-b1*",
            "not compared with *: 1 benchmarks only in the saved run: *tiny-cpu-force_float32-b1*",
        ]
    )
    faster = json.loads(saved.read_text())
    faster["benchmarks"][0]["stats"]["min"] /= 1000
    saved.write_text(json.dumps(faster))
    gate = ("--benchmark-compare=0001", "--benchmark-compare-fail=min:50%")
    assert suite.run("-m", "latency", *gate, *ONE).ret != 0


def test_the_table_stands_at_the_end(suite):
    suite.run("--update-golden", "-m", "golden")
    found = suite.run()
    found.stdout.fnmatch_lines(
        [
            "*= topfive =*",
            "model *target *quant mode *batch golden *top-1 p50 ms p90 ms *p99 ms *img/s rounds *Mcycles",
            "tiny *cpu *force_float16 *1 exact *",
            "tiny *gemmini_sim~ *int8 *2 exact *",
            "~ gemmini_sim is simulated: *",
            "*= * passed* =*",
        ]
    )
    found.stdout.no_fnmatch_line("*Outliers*")
    assert max(len(line) for line in found.outlines if line.startswith("tiny ")) <= 100


def test_few_rounds_are_marked(suite):
    found = suite.run("-m", "latency", "--benchmark-max-time=0.000001", "--benchmark-min-rounds=3", *ONE)
    line = next(line for line in found.outlines if line.startswith("tiny "))
    assert line.split()[-1] == "3"
    assert "*" in line
    found.stdout.fnmatch_lines([r"[*] p99 of fewer than 100 rounds*"])


def test_csv_has_the_same_rows(suite):
    suite.run("-m", "latency or throughput", "--topfive-csv=out.csv", *ONE)
    with (suite.path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["model"], r["target"], r["quant"], r["batch"]) for r in rows] == [
        ("tiny", "cpu", "force_float32", b) for b in ("1", "2")
    ]
    assert float(rows[0]["p50_s"]) < 10
    assert len(rows[0]["artifact"]) == 64
    assert rows[0]["version_onnxruntime"]


def test_disabled_benchmarks_run_once_and_measure_nothing(suite):
    found = suite.run("-m", "latency", "--benchmark-disable", *ONE)
    found.assert_outcomes(passed=1)
    found.stdout.no_fnmatch_line("*= topfive =*")


def test_a_distribution_mode_without_workers_does_not_switch_benchmarks_off(suite):
    suite.run("-m", "latency", "--dist=worksteal", "--benchmark-json=out.json", *ONE).assert_outcomes(
        passed=1
    )
    assert (suite.path / "out.json").is_file()


# A target of somebody else


MY_TARGET = """
from topfive.targets.base import Target

class MyTarget(Target):
    name = "mydevice"
    quants = ("force_float32",)

    def versions(self):
        return {"mycompiler": "1.2"}

    def compile(self, model, quant, out):
        from topfive.targets.onnxruntime_runner import describe_input
        (out / "model.onnx").write_bytes(model.SerializeToString())
        return {"input": describe_input(model)}

    def open(self, artifact, *, threads=None):
        from topfive.sessions import open_session
        from topfive.targets.onnxruntime_runner import OnnxRuntimeRunner
        def opened(model, threads):
            return open_session(str(model), threads=threads)
        return OnnxRuntimeRunner(artifact, threads, opened, "mine")
"""


ENTRY_POINT = "[topfive.targets]\nmydevice = my_target:MyTarget\n"


def test_an_installed_target_needs_nothing_else(suite, monkeypatch):
    suite.write(
        {
            "conftest.py": "",
            "site/my_target.py": MY_TARGET,
            "site/my_target-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-target\nVersion: 1.0\n",
            "site/my_target-1.0.dist-info/entry_points.txt": ENTRY_POINT,
        }
    )
    path = [str(suite.path / "site"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    found = suite.run("-m", "mydevice", "--update-golden", subprocess=True)
    assert found.parseoutcomes()["passed"] == 4
    found.stdout.fnmatch_lines(
        ["tiny *mydevice *force_float32 *1 updated *", "*mydevice-force_float32.json: new*"]
    )


# xdist


@pytest.mark.parametrize(
    "arguments",
    [
        ("--benchmark-only",),
        ("--benchmark-compare",),
        ("--benchmark-compare=0001", "--benchmark-compare-fail=min:5%"),
        ("--benchmark-json=x.json",),
        ("--benchmark-save=x",),
        ("--benchmark-autosave",),
        ("--benchmark-enable",),
        ("--benchmark-histogram=x",),
        ("--benchmark-cprofile=cumtime",),
        ("--topfive-csv=x.csv",),
        ("-m", "latency"),
        ("-m", "gemmini_sim and (latency or throughput)"),
    ],
    ids=lambda value: "_".join(value).replace("--", ""),
)
@pytest.mark.parametrize("workers", ["-n2", "-nauto"])
def test_measuring_and_xdist_exclude_each_other(suite, arguments, workers):
    found = suite.run(workers, *arguments)
    assert found.ret == USAGE
    assert exclusive.NEVER_PARALLEL in "\n".join(found.errlines)
    assert not (suite.path / "x.json").exists()


@pytest.mark.parametrize(
    "option", ["--benchmark-skip", pytest.param("--benchmark-disable", marks=pytest.mark.slow)]
)
def test_workers_may_leave_measuring_out(suite, option):
    found = suite.run("-n2", option, *ONE, subprocess=True)
    outcomes = found.parseoutcomes()
    assert (outcomes["skipped"], outcomes["failed"]) == (3, 1)
    assert "PytestBenchmarkWarning" not in found.stderr.str()


@pytest.mark.parametrize(
    ("expression", "conflict"),
    [
        ("latency", True),
        ("cpu and throughput", True),
        ("golden or latency", True),
        ("not latency", False),
        ("not (latency or throughput)", False),
        ("gemmini_sim and not latency and not throughput", False),
        ("golden", False),
        ("not golden and latency", True),
        ("", False),
    ],
)
def test_marker_expressions_that_select_measurements(expression, conflict):
    assert bool(exclusive.conflict_with_xdist({"markexpr": expression})) == conflict


def test_a_run_inside_a_test_of_a_worker_does_not_measure(suite, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    refused = suite.run("-m", "latency")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "PYTEST_XDIST_WORKER" in refused.stderr.str()


def test_no_workers_is_no_conflict(suite):
    suite.run("-n0", "-m", "latency", "--benchmark-json=x.json", *ONE).assert_outcomes(passed=1)
    assert (suite.path / "x.json").exists()


def test_workers_check_goldens_and_skip_measurements_with_the_reason(suite):
    suite.run("--update-golden", "-m", "golden")
    found = suite.run("-n2", subprocess=True)
    found.assert_outcomes(passed=4, skipped=12)
    found.stdout.fnmatch_lines(
        ["tiny *cpu *int8 *exact*", "tiny *gemmini_sim~ *exact*", f"SKIPPED*{exclusive.NEVER_PARALLEL}"]
    )
