"""The emulated tools of an AI 100: strict about their command lines, and open about what they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from topfive.targets.aic100.figures import check_statistics, parse_statistics, read_latencies
from topfive.targets.tools import EMULATED, is_emulated

from aic100_tools import EMULATORS

MODEL_FLAGS = [
    "-m=model.onnx",
    "-onnx-define-symbol=batch_size,2",
    "-aic-hw",
    "-aic-hw-version=2.0",
    "-aic-num-cores=2",
    "-ols=1",
    "-convert-to-fp16",
    "-compile-only",
    "-aic-binary-dir=qpc",
    "-stats-batchsize=2",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model, input 3 numbers, output their sum and difference."""
    weights = np.array([[1, 1], [1, -1], [1, 0]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"], name="product")],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch_size", 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch_size", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    made = tmp_path_factory.mktemp("original")
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), made / "model.onnx")
    (made / "out").mkdir()
    return made


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "work", ignore=shutil.ignore_patterns("qpc"))
    return tmp_path / "work"


def tool(folder: Path, name: str, *arguments: str, state: Mapping[str, object] | None = None):
    environment = {"PATH": "/usr/bin:/bin", "TOPFIVE_EMULATOR_PYTHON": sys.executable}
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        environment["TOPFIVE_EMULATED_AIC100"] = str(folder / "state.json")
    return subprocess.run(
        [EMULATORS / name, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def program(original: Path) -> Path:
    """The program of the model, for two pictures at once."""
    done = tool(original, "qaic-exec", *MODEL_FLAGS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Reading ONNX Model from model.onnx",
        "Compile started ............... ",
        "Compiling model with FP16 precision.",
        "Generated binary is present at qpc",
    ]
    return original / "qpc"


@pytest.fixture
def compiled(folder: Path, program: Path) -> Path:
    shutil.copytree(program, folder / "qpc")
    return folder


@pytest.mark.parametrize("name", ["qaic-exec", "qaic-compile", "qaic-runner", "qaic-util"])
def test_each_says_what_it_is(tmp_path: Path, name: str) -> None:
    done = tool(tmp_path, name, "-h")
    assert done.returncode == 0
    assert is_emulated(done.stdout.splitlines()[0])
    assert done.stdout.startswith(f"{EMULATED} {name}: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"-aic-hw": None}, "for the -aic-hw option: must be specified"),
        ({"-convert-to-fp16": None}, "for the -convert-to-fp16 option: must be specified"),
        ({"-compile-only": None}, "for the -compile-only option: must be specified"),
        ({"-aic-binary-dir=qpc": None}, "for the -aic-binary-dir option: must be specified"),
        ({"-aic-num-cores=2": "-aic-num-cores=17"}, "must be 1 to 16"),
        ({"-aic-num-cores=2": "-aic-num-cores=two"}, "'two' value invalid"),
        ({"-aic-hw-version=2.0": "-aic-hw-version=3.0"}, "'3.0' value invalid"),
        ({"-ols=1": "-ols"}, "for the -ols option: requires a value"),
        ({"-aic-hw": "-aic-hw=1"}, "does not allow a value"),
        ({"-ols=1": "-oils=1"}, "Unknown command line argument '-oils=1'"),
        ({"-ols=1": "extra"}, "Unknown command line argument 'extra'"),
        ({"-m=model.onnx": "-m=none.onnx"}, "cannot open none.onnx"),
        ({"-m=model.onnx": None}, "one input model is wanted"),
        ({"-m=model.onnx": "-m=state.json"}, "failed to load ONNX model"),
        ({"-onnx-define-symbol=batch_size,2": None}, "symbol batch_size of input is not defined"),
        ({"-onnx-define-symbol=batch_size,2": "-onnx-define-symbol=N,2"}, "has no symbol N"),
        ({"-aic-binary-dir=qpc": "-aic-binary-dir=out"}, "the directory out exists already"),
        ({"-ols=1": "-aic-depth-first-mem=7"}, "'7' value invalid"),
        ({"-ols=1": "-aic-depth-first-mem=33"}, "'33' value invalid"),
        ({"-ols=1": "-mos=1,"}, "'1,' value invalid"),
        ({"-ols=1": "-sdp-cluster-sizes=7;7"}, "'7;7' value invalid"),
        ({"-ols=1": "-aic-hw"}, "may only occur zero or one times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(f"{a}:{b}" for a, b in value.items()),
)
def test_the_compiler_takes_what_is_documented(
    folder: Path, change: Mapping[str, str | None], words: str
) -> None:
    changed = [change.get(flag, flag) for flag in MODEL_FLAGS]
    done = tool(folder, "qaic-compile", *(flag for flag in changed if flag is not None), state={})
    assert done.returncode == 1
    assert words in done.stderr
    assert not (folder / "qpc").exists()


def write_input(folder: Path, **changed: object) -> np.ndarray:
    values = np.array([[1, 2, 3], [0.5, 0.25, 4]], np.float32)
    values.tofile(folder / "in.raw")
    given = {"path": "in.raw", "io-direction": "in", "elem-size": 4, "map-to": "input", "dims": [2, 3]}
    described = {"IO-files": [[given | changed]]}
    (folder / "in.json").write_text(json.dumps(described), encoding="utf-8")
    return values


@pytest.mark.parametrize(
    "way",
    [
        ["-i", "in.raw"],
        ["--aic-batch-json-input", "in.json"],
        ["-input-file=in.raw"],
        ["--aic-batch-input-file-list", "list.txt"],
    ],
)
def test_the_runner_runs(compiled: Path, way: Sequence[str]) -> None:
    values = write_input(compiled)
    (compiled / "list.txt").write_text("./in.raw", encoding="utf-8")
    done = tool(compiled, "qaic-runner", "-t", "qpc", "-n", "1", "-write-output-dir", "out", *way)
    assert (done.returncode, done.stderr) == (0, "")
    found = np.fromfile(compiled / "out" / "output-activation-0-inf-0.bin", "<f4").reshape(2, 2)
    expected = np.stack([values.sum(axis=1), values[:, 0] - values[:, 1]], axis=1)
    assert np.array_equal(found, expected)
    statistics = parse_statistics(done.stdout)
    assert statistics.inferences == 1
    check_statistics(statistics, 2)


def test_the_runner_measures(compiled: Path) -> None:
    write_input(compiled)
    done = tool(
        compiled,
        "qaic-runner",
        *("-t", "qpc", "-a", "3", "-S2", "-n", "40", "-i", "in.raw", "--aic-profiling-type", "latency"),
        *("--aic-profiling-num-samples", "999999", "--aic-profiling-out-dir", "out", "-d0"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted((compiled / "out").iterdir())
    assert [path.name for path in files] == [f"aic-profiling-program-{n}-latency.txt" for n in range(3)]
    found = read_latencies(files)
    assert (found.column, len(found.seconds)) == ("totalRoundtripTimeUs", 40)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["-n", "1"], 1, "no -t"),
        (["-t", "none"], 1, "Failed to initialize QAIC runner"),
        (["-t", "bad"], 1, "bad/programqpc.bin is no QPC"),
        (["-t", "qpc", "-n", "1", "--time", "1"], 1, "-n and --time"),
        (["-t", "qpc", "-n", "0"], 1, "positive value for n"),
        (["-t", "qpc", "-n", "many"], 1, "valid value for n"),
        (["-t", "qpc", "-a", "8"], 1, "Failed to initialize QAIC runner"),
        (["-t", "qpc", "-d", "1"], 1, "Failed to initialize QAIC runner"),
        (["-t", "qpc", "-write-output-dir", "none"], 1, "Invalid output dir: none"),
        (["-t", "qpc", "--aic-profiling-out-dir", "none"], 1, "Invalid output dir: none"),
        (["-t", "qpc", "-i", "none.raw"], 1, "cannot open none.raw"),
        (["-t", "qpc", "-i", "model.onnx"], 1, "model.onnx has"),
        (["-t", "qpc", "-i", "in.raw", "-i", "in.raw"], 1, "2 input files"),
        (["-t", "qpc", "-i", "in.raw", "--aic-batch-json-input", "in.json"], 1, "-i and --aic-batch"),
        (["-t", "qpc", "--aic-batch-json-input", "model.onnx"], 1, "model.onnx"),
        (["-t", "qpc", "--aic-batch-input-file-list", "none.txt"], 1, "none.txt"),
        (["-t", "qpc", "--aic-batch-input-file-list", "in.json"], 1, "in.json: one line"),
        (["-t", "qpc", "-i", "in.raw", "--aic-batch-input-file-list", "in.json"], 1, "two inputs"),
        (["-t", "qpc", "--aic-profiling-type", "all"], 1, "Invalid profiling type"),
        (["-t", "qpc", "more"], 1, "Failed to validate arguments: more"),
        (["-t", "qpc", "--no-such-option"], 0, "unrecognized option '--no-such-option'"),
        (["-t", "qpc", "-x"], 0, "unrecognized option '-x'"),
        (["-t"], 0, "option '-t' requires an argument"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_the_runner_takes_what_is_documented(
    compiled: Path, arguments: Sequence[str], status: int, words: str
) -> None:
    write_input(compiled)
    (compiled / "bad").mkdir()
    (compiled / "bad" / "programqpc.bin").write_bytes(b"QPC")
    done = tool(compiled, "qaic-runner", *arguments)
    assert done.returncode == status
    assert words in done.stderr
    # Whatever the status is, there is no result.
    assert "InferenceCnt" not in done.stdout


@pytest.mark.parametrize(
    "changed",
    [{"dims": [2, 4]}, {"map-to": "x"}, {"elem-size": 2}, {"io-direction": "out"}, {"path": "none.raw"}],
    ids=["dims", "name", "size", "direction", "file"],
)
def test_inputs_that_do_not_fit(compiled: Path, changed: Mapping[str, object]) -> None:
    write_input(compiled, **changed)
    done = tool(compiled, "qaic-runner", "-t", "qpc", "--aic-batch-json-input", "in.json")
    assert done.returncode == 1
    assert "Failed to run QAIC runner" in done.stderr


def test_the_utility_takes_what_is_documented(tmp_path: Path) -> None:
    shown = tool(tmp_path, "qaic-util", "-q", "-d", "2", state={"devices": [0, 2], "nsp_free": 3}).stdout
    assert "QID 2\n" in shown
    assert "QID 0\n" not in shown
    assert "\tNsp Free:3\n" in shown
    assert "emulated" in shown.splitlines()[0]
    for arguments in ([], ["-q", "now"], ["-x"], ["-d", "0"]):
        assert tool(tmp_path, "qaic-util", *arguments).returncode == 1


def test_states_follow_each_other(tmp_path: Path) -> None:
    state = {"nsp_free": [1, 2]}
    (tmp_path / "state.json").write_text(json.dumps(state), encoding="utf-8")
    seen = [tool(tmp_path, "qaic-util", "-q", state=state).stdout for _ in range(3)]
    assert [f"Nsp Free:{free}" in text for free, text in zip((1, 2, 2), seen, strict=True)] == [True] * 3


# getopt_long_only


def module(name: str) -> ModuleType:
    spec = spec_from_file_location(f"emulated_{name}", EMULATORS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


LONG_ONLY = module("long_only")
LONG = {"time": (True, "time"), "test-data": (True, "t"), "set-size": (True, "S"), "verbose": (False, "v")}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["-t", "x"], [("t", "x")]),
        (["-tx"], [("t", "x")]),
        (["-time", "3"], [("time", "3")]),
        (["--time=3"], [("time", "3")]),
        (["-test-data=x"], [("t", "x")]),
        (["-te", "x"], [("t", "x")]),
        (["-S", "2", "--verb"], [("S", "2"), ("v", "")]),
        (["-vS2"], [("v", ""), ("S", "2")]),
        (["-d=0"], [("d", "=0")]),
    ],
    ids=lambda value: "_".join(value) if value and isinstance(value[0], str) else None,
)
def test_options_of_one_dash(arguments: Sequence[str], found: Sequence[tuple[str, str]]) -> None:
    assert LONG_ONLY.parse(arguments, "t:S:d:v", LONG) == (found, [])


@pytest.mark.parametrize(
    "arguments",
    [["--t", "x"], ["-x"], ["--time"], ["--verbose=1"], ["-vx"], ["--none"]],
    ids="_".join,
)
def test_options_that_there_are_not(arguments: Sequence[str]) -> None:
    with pytest.raises(LONG_ONLY.UnknownOptionError):
        LONG_ONLY.parse(arguments, "t:S:d:v", LONG)


@given(st.lists(st.tuples(st.sampled_from(sorted(LONG)), st.text("abc-=", min_size=1, max_size=4))))
def test_any_long_options(options: Sequence[tuple[str, str]]) -> None:
    arguments: list[str] = []
    expected = []
    for number, (name, value) in enumerate(options):
        wants, told = LONG[name]
        dashes = "-" * (1 + number % 2)
        arguments += [f"{dashes}{name}={value}"] if wants else [f"{dashes}{name}"]
        expected.append((told, value if wants else ""))
    assert LONG_ONLY.parse([*arguments, "rest", "--", "-t"], "t:", LONG) == (expected, ["rest", "-t"])
