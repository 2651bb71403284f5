"""The record of a pytest session and --topfive-compare, by running pytest on a small suite."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

# Imported here for pytest inside pytest, which forgets modules that it was the first to load.
import jsonschema
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import PIL.Image  # noqa: F401
import pytest

import topfive.pipeline  # noqa: F401
from test_plugin import CARD, GOLDEN_TEST, SETTINGS, SPEED_TESTS
from test_records import SCHEMA
from topfive.records import list_records, read_record, write_record
from topfive.records.entries import entries_of
from topfive.records.envelope import seal

from topfive_command import run_topfive

USAGE = pytest.ExitCode.USAGE_ERROR
CASE = ("--models", "tiny", "--targets", "gemmini_sim", "--quant", "int8")
GATES = "cycles:0,bits:0,top1:0.2"
TINY = CARD.format(name="tiny", tags='"mine"', flags="", file="pocket_fire.onnx", sha256="", count=3)


@pytest.fixture(scope="module")
def artifact_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("artifact_cache")


@pytest.fixture
def project(pytester, monkeypatch, artifact_cache):
    """A project with goldens of its own; its records are where a project's are."""
    monkeypatch.setenv("TOPFIVE_CACHE", str(artifact_cache))
    for name in ("CI", "TOPFIVE_CARDS", "TOPFIVE_RECORDS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {
        "pytest.ini": "[pytest]\nstrict = true\n",
        "bench/suite.toml": SETTINGS,
        "bench/test_right.py": GOLDEN_TEST,
        "bench/test_fast.py": SPEED_TESTS,
        "cards/tiny.toml": TINY,
    }.items():
        (pytester.path / name).parent.mkdir(exist_ok=True)
        (pytester.path / name).write_text(text)

    class Project:
        path = pytester.path
        records = pytester.path / ".topfive" / "records"

        def run(self, *arguments):
            cards = ("-p", "no:cacheprovider", "--cards", str(pytester.path / "cards"), *CASE)
            return pytester.runpytest_inprocess(*cards, *arguments)

        def edit(self, change):
            """Another record beside the only one, sealed again after `change(test)` of each test."""
            (found,) = list_records(self.records)
            record = json.loads(json.dumps(found.record))
            for test in record["tests"]:
                change(test)
            record |= {"id": "edited", "created": "2099-01-01T00:00:00+00:00"}
            write_record(self.records, seal({k: v for k, v in record.items() if k != "sha256"}))

    return Project()


def test_a_session_leaves_its_record(project):
    found = project.run("--update-golden")
    assert found.ret == 0
    found.stdout.fnmatch_lines(["record: .topfive/records/*-session-*.json"])
    (path,) = project.records.iterdir()
    record = read_record(path)
    jsonschema.validate(record, SCHEMA)
    tests = entries_of(record)
    assert {test.partition("::")[2].partition("[")[0] for test in tests} == {
        "test_golden",
        "test_latency",
        "test_throughput",
    }
    golden = next(entry for name, entry in tests.items() if "golden" in name)
    assert len(golden.values["bits"]) == 64
    assert golden.values["modelled_bus"] > 0
    assert len(golden.values["right1"]) == 3
    assert len(golden.source) == 64
    assert golden.built["fields"]["quantized"]
    assert golden.built["files"]["artifact.json"]
    for name, entry in tests.items():
        assert (len(entry.rounds) >= 3) == ("golden" not in name)
        if "golden" not in name:
            assert entry.stored["percentiles"]["p50"] == pytest.approx(entry.values["p50"])
    assert record["argv"][0] == "pytest"
    assert record["machine"]["fingerprint"]
    assert record["folder"] == "."


def test_no_record_no_file(project):
    project.run("-m", "golden", "--update-golden", "--no-record")
    project.run("--collect-only", "-q")
    project.run("-m", "golden", "-k", "nothing_of_this_name")
    assert not (project.path / ".topfive").exists()


def test_sessions_of_others_leave_nothing(pytester, monkeypatch):
    monkeypatch.delenv("TOPFIVE_RECORDS")
    pytester.makepyfile("def test_mine(benchmark): benchmark(sum, [1])")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert not (pytester.path / ".topfive").exists()


def test_failures_and_skips_are_in_the_record(project):
    project.run("-m", "golden", "--topfive-tags", "b,a").assert_outcomes(failed=1)
    (found,) = list_records(project.records)
    (test,) = found.record["tests"]
    assert test["outcome"] == "failed"
    assert "is missing" in test["reason"]
    assert found.record["tags"] == ["a", "b"]


def test_the_same_twice_passes(project):
    project.run("-m", "golden", "--update-golden")
    again = project.run("-m", "golden", "--topfive-compare=latest", "--topfive-gate", GATES, "-v")
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["topfive-compare*PASSED*", "passed: * against *"])
    assert list_records(project.records)[-1].record["compared"]["failures"] == 0


@pytest.mark.parametrize("more", [(), ("--benchmark-only",)], ids=["all", "benchmark_only"])
def test_a_regression_is_a_failed_test_in_junit(project, more):
    kind = "latency" if more else "golden"
    project.run("-m", kind, *(() if more else ("--update-golden",)), *more)

    def slower(test):
        test["values"]["modelled_bus"] -= 1

    project.edit(slower)
    report, table = project.path / "junit.xml", project.path / "table.md"
    found = project.run(
        *("-m", kind, "--topfive-compare=edited", "--topfive-gate", GATES, *more),
        *(f"--junitxml={report}", f"--topfive-markdown={table}"),
    )
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(["*modelled_bus*worse*", "FAILED: * against edited: *"])
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = next(case for case in suite.iter("testcase") if case.find("failure") is not None)
    assert failure.get("name") == "topfive-compare[edited]"
    assert "modelled_bus worse" in failure.find("failure").get("message")
    assert "**worse" in table.read_text()


def test_a_missing_test_fails(project):
    project.run("-m", "golden or latency", "--update-golden")
    missing = project.run("-m", "golden", "--topfive-compare=latest", "--topfive-gate", GATES)
    missing.assert_outcomes(passed=1, failed=1)
    missing.stdout.fnmatch_lines(["*test_latency*missing*"])


def test_another_model_and_another_machine_are_refused(project):
    project.run("-m", "latency")

    def change(test):
        test["built"]["source_sha256"] = "0" * 64

    project.edit(change)
    found = project.run("-m", "latency", "--topfive-compare=edited")
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(["*different models of the same name*"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--topfive-compare=nobody",), "no record 'nobody'"),
        (("--topfive-compare=latest",), "there are 0 session records"),
        (("--topfive-compare=latest", "--topfive-gate=p51:5%"), "unknown gate metric 'p51'"),
    ],
    ids=["name", "none", "gate"],
)
def test_what_cannot_be_compared_is_a_usage_error(project, arguments, words):
    found = project.run("-m", "golden", *arguments)
    assert found.ret == USAGE
    errors = "\n".join(found.errlines)
    assert words in errors
    assert "Traceback" not in errors


def test_a_record_that_cannot_be_written_fails_the_run(project):
    (project.path / ".topfive").write_text("a file")
    found = project.run("-m", "golden", "--update-golden")
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.stdout.fnmatch_lines(["*cannot be written*--no-record*"])


def test_the_comparison_of_pytest_benchmark_still_works(project):
    project.run("-m", "latency", "--benchmark-autosave")
    found = project.run("-m", "latency", "--benchmark-compare=0001")
    assert found.ret == 0
    found.stderr.fnmatch_lines(["Comparing against benchmarks from: *0001*"])
    assert sum("(NOW)" in line or "(0001_" in line for line in found.outlines) == 2


def test_repeat_runs_the_same_again(project, monkeypatch):
    project.run("-m", "golden", "--update-golden")
    monkeypatch.chdir(project.path)
    code, out, err = run_topfive("repeat", "latest", "--gate", GATES, "--json")
    assert code == 0, err
    assert json.loads(out)["failed"] is False
    first, second = list_records(project.records)
    assert second.record["repeats"] == first.id
    assert second.record["argv"] == first.record["argv"]
    # A record can come from anybody: it must not make another command run.
    for argv in ([], ["topfive"], ["topfive", "records", "rm", first.id], ["sh", "-c", "true"]):
        nothing = {**first.record, "id": "nothing", "argv": argv}
        write_record(project.records, seal({k: v for k, v in nothing.items() if k != "sha256"}))
        code, _, err = run_topfive("repeat", "nothing")
        assert (code, "keeps no command" in err) == (2, True)
