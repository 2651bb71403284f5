"""`topfive run -t`, `topfive trace` and `pytest --trace-dir`, end to end; the seed README's jq line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

import topfive
from topfive.cards import fixtures_root
from topfive.cli import main
from topfive.targets.gemmini.target import INT8_FILE
from topfive.targets.profiling import Profile, RunTime, Span
from topfive.trace.events import DIGITS
from topfive.trace.nesting import nested
from topfive.trace.recording import trace_events
from topfive.trace.validation import problems

PICTURES = fixtures_root() / "pictures" / "pocket100" / "val"
PICTURE = PICTURES / "ILSVRC2012_val_00000001.JPEG"
STRICT = 2 * 10.0**-DIGITS
# As the README of the imagenet runner has it, and with the later correction of its successor.
SEEDS_LINE = (
    "map(select(.args.op_name != null))  | group_by(.args.op_name) | "
    "map({(.[0].args.op_name) : map(.dur) | add}) | sort_by(.[]) | add"
)
CORRECTED = SEEDS_LINE.replace("!= null)", "!= null and .args.sub_action == null)", 1)
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: apt-get install jq")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifact_cache")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> Any:
    """Run `topfive ARGUMENTS`: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
        monkeypatch.delenv("TOPFIVE_CARDS", raising=False)
        monkeypatch.setattr(sys, "argv", ["topfive", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run


MODES: dict[str, tuple[str, ...]] = {
    "cpu": ("--target", "cpu"),
    "cpu_int8": ("--target", "cpu", "--quant", "int8"),
    "sim": ("--target", "gemmini_sim", "--quant", "int8"),
    "x0_O99": ("-x", "0", "-O", "99"),
    "x2_O1": ("-x", "2", "-O", "1"),
    "x2_O99": ("-x", "2", "-O", "99"),
}


@pytest.fixture(params=MODES)
def traced(
    request: pytest.FixtureRequest, command: Any, tmp_path: Path
) -> tuple[str, list[dict[str, Any]], Path]:
    """(mode, events, file) of a run of pocket_resnet on one picture."""
    path = tmp_path / "trace.json"
    code, out, err = command("run", "-m", "pocket_resnet", "-i", PICTURE, *MODES[request.param], "-t", path)
    assert code == 0, err
    assert "Element count 100" in out
    assert f"trace of 1 picture: {path}" in err
    return request.param, json.loads(path.read_text()), path


def nodes_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e for e in events if "op_name" in e.get("args", {})]


def test_a_trace_is_good_and_nests(traced: tuple[str, list[dict[str, Any]], Path]) -> None:
    _, events, _ = traced
    assert problems(events, STRICT) == []
    about = events[0]["args"]
    assert about["model"] == "pocket_resnet"
    assert about["command"].startswith("topfive run -m pocket_resnet")
    assert about["pictures"] == [str(PICTURE)]
    assert {"topfive", "onnxruntime"} <= about["versions"].keys()
    assert len(about["source_sha256"]) == 64
    run = next(e for e in events if e["name"] == "model_run")
    for event in nodes_of(events):
        assert run["ts"] <= event["ts"]
        assert event["ts"] + event["dur"] <= run["ts"] + run["dur"]
        assert event["args"]["provider"] in ("CPU", "Systolic")
        assert all(isinstance(event["args"][key], int) for key in ("activation_size", "output_size"))
        assert event["args"]["output_type_shape"]
    assert sum(e["dur"] for e in nodes_of(events)) <= run["dur"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert any("host time, measured" in name for name in names)


def test_each_int8_node_has_one_kernel(
    traced: tuple[str, list[dict[str, Any]], Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, events, _ = traced
    if mode.startswith("cpu"):
        assert {e["args"]["provider"] for e in nodes_of(events)} == {"CPU"}
        assert not any(e["pid"] != 1 for e in events)
        return
    options = events[0]["args"]["options"]
    built = topfive.build("pocket_resnet", target="gemmini_sim", quant="int8", cache=cache, options=options)
    int8 = onnx.load(built.path / INT8_FILE)
    wanted = {(f"{node.name}_kernel_time", node.op_type) for node in int8.graph.node}
    kernels = [e for e in nodes_of(events) if "piece" not in e["args"] and "made_by" not in e["args"]]
    assert {(e["name"], e["args"]["op_name"]) for e in kernels} == wanted
    assert len(kernels) == len(wanted)
    pieces = Counter(e["args"]["piece"] for e in nodes_of(events) if "piece" in e["args"])
    additions = sum(node.op_type == "QLinearAdd" for node in int8.graph.node)
    assert pieces == {"left": additions, "right": additions}
    plan = {node["name"]: node["provider"] for node in built.meta["execution_plan"]["nodes"]}
    assert all(e["args"]["provider"] == plan[e["args"]["node"]] for e in kernels)
    assert {"CPU", "Systolic"} == {e["args"]["provider"] for e in kernels}


def test_the_modelled_lane_is_the_cycle_model(
    traced: tuple[str, list[dict[str, Any]], Path], cache: Path
) -> None:
    mode, events, _ = traced
    if mode.startswith("cpu"):
        return
    layers = [e for e in events if "modelled_op" in e.get("args", {})]
    options = events[0]["args"]["options"]
    built = topfive.build("pocket_resnet", target="gemmini_sim", quant="int8", cache=cache, options=options)
    figures = built.meta["modelled_cycles"].get("1")
    if mode != "x0_O99":
        assert sum(e["args"]["cycles"] for e in layers) == figures["estimate"]
        assert sum(e["args"]["bus_cycles"] for e in layers) == figures["bus"]
        assert sum(e["args"]["ideal_cycles"] for e in layers) >= figures["ideal"]
    assert sum(e["args"]["cycles"] for e in layers) == events[0]["args"]["modelled"]["estimate_cycles"]
    assert {"load", "compute", "store"} == {
        e["args"]["sub_action"] for e in events if e.get("cat") == "Modelled" and "sub_action" in e["args"]
    }
    lane = next(e["args"]["name"] for e in events if e["name"] == "process_name" and e["pid"] == 2)
    assert "modelled" in lane
    assert "1000 MHz" in lane


def test_steps_of_convolutions_fill_their_kernels(traced: tuple[str, list[dict[str, Any]], Path]) -> None:
    mode, events, _ = traced
    steps = [e for e in events if e.get("cat") == "Node" and "sub_action" in e["args"]]
    assert all("op_name" not in e["args"] for e in steps)
    if mode != "x2_O1":
        # The runner too shows none where one call does it all.
        assert not steps
        return
    assert {e["args"]["sub_action"] for e in steps} == {"im2col", "bias splat", "matmul"}
    trees = [tree for those in nested([e for e in events if e["pid"] == 1]).values() for tree in those]
    held = [
        node
        for tree in trees
        for node in tree.walk()
        if any("sub_action" in c.event["args"] for c in node.children)
    ]
    assert len(held) == 13
    for node in held:
        assert node.event["args"]["op_name"] == "QLinearConv"
        assert sum(child.duration for child in node.children) == pytest.approx(node.duration, abs=0.01)


@needs_jq
def test_the_seeds_line_counts_nothing_twice(traced: tuple[str, list[dict[str, Any]], Path]) -> None:
    _, events, path = traced

    def jq(line: str) -> dict[str, float]:
        done = subprocess.run(["jq", line, str(path)], capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    sums: Counter[str] = Counter()
    for event in nodes_of(events):
        sums[event["args"]["op_name"]] += event["dur"]
    assert jq(SEEDS_LINE) == jq(CORRECTED) == dict(sums)
    run = next(e for e in events if e["name"] == "model_run")
    assert 0 < sum(jq(SEEDS_LINE).values()) <= run["dur"]


def test_summary_and_flame_graph_of_a_real_trace(
    traced: tuple[str, list[dict[str, Any]], Path], command: Any
) -> None:
    mode, events, path = traced
    code, out, _ = command("trace", "summary", path, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["us"] == sum(e["dur"] for e in nodes_of(events))
    assert found["trace"]["model"] == "pocket_resnet"
    code, out, _ = command("trace", "summary", path, "--by", "provider")
    assert code == 0
    assert out.splitlines()[
        0
    ] == f"pocket_resnet on {found['trace']['target']}, {found['trace']['quant']}: " + ("host time, measured")
    code, out, err = command("trace", "summary", path, "--lane", "modelled", "--by", "layer")
    if mode.startswith("cpu"):
        assert code == 2
        assert err.startswith(f"topfive: {path}: holds no modelled layers")
    else:
        assert "modelled (calibrated estimate, not measured)" in out.splitlines()[0]
        cycles = events[0]["args"]["modelled"]["estimate_cycles"]
        assert out.splitlines()[-1].split()[-1] == f"{cycles:,}"
    svg = path.with_suffix(".svg")
    code, out, _ = command("trace", "flamegraph", path, "-o", svg)
    assert (code, out) == (0, f"{svg}\n")
    ElementTree.parse(svg)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("summary", "none.json"), "none.json: cannot be read"),
        (("summary", "bad.json"), "bad.json: is not JSON"),
        (("summary", "wrong.json"), "wrong.json: is no trace of the Trace Event Format: event 0"),
        (("summary", "good.json", "--by", "operators"), "unknown grouping 'operators'"),
        (("summary", "good.json", "--lane", "gpu"), "unknown lane 'gpu'"),
        (("flamegraph", "good.json", "-o", "none/f.svg"), "none/f.svg: cannot be written"),
        (("flamegraph", "good.json", "-o", "f.svg", "--lane", "modelled"), "holds no modelled layers"),
    ],
    ids=["missing", "text", "format", "by", "lane", "folder", "no_lane"],
)
def test_bad_input_of_trace_is_exit_code_2(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{nonsense")
    Path("wrong.json").write_text('[{"ph": "X", "name": "n"}]')
    event = {"ph": "X", "name": "n", "ts": 0, "dur": 1, "pid": 1, "tid": 1, "args": {"op_name": "Conv"}}
    Path("good.json").write_text(json.dumps([event]))
    code, out, err = command("trace", *arguments)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[0]
    assert "Traceback" not in err


@pytest.mark.parametrize("place", ["none/t.json", "."], ids=["no_folder", "folder"])
def test_a_trace_that_cannot_be_written_is_refused_before_the_build(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(
        "run", "-m", "pocket_fire", "-i", PICTURE, "-t", place, "--artifact-cache", "cache"
    )
    assert (code, out) == (2, "")
    assert "trace" in err.splitlines()[0]
    assert not (tmp_path / "cache").exists()


def test_of_a_list_the_first_pictures_are_traced(command: Any, tmp_path: Path) -> None:
    lines = []
    for number, picture in enumerate(sorted(PICTURES.glob("*.JPEG"))[:4]):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(picture, folder)
        lines.append(f"{number}/{picture.name}")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    path = tmp_path / "t.json"
    arguments = ("run", "-m", "pocket_fire", "-i", tmp_path / "list.txt", "--target", "gemmini_sim")
    plain = command(*arguments)
    code, out, err = command(*arguments, "-t", path, "--trace-pictures", 3)
    assert code == 0
    assert out == plain[1]
    assert "trace of 3 pictures" in err
    events = json.loads(path.read_text())
    assert problems(events, STRICT) == []
    about = events[0]["args"]
    assert (about["runs"], len(about["pictures"])) == (3, 3)
    assert sum(e["name"] == "model_run" for e in events) == 3
    assert {e["args"]["run"] for e in nodes_of(events)} == {1, 2, 3}
    modelled = [e["args"]["cycles"] for e in events if "modelled_op" in e.get("args", {})]
    assert sum(modelled) == 3 * about["modelled"]["estimate_cycles"]


def test_modelled_runs_wait_for_the_lane_to_be_free(cache: Path) -> None:
    """Where the model is slower than the host, or runs follow each other closely."""
    built = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache)
    runs = tuple(RunTime((Span("model_run", start, 5),)) for start in (0, 6, 12, 9000))
    with topfive.open(built, threads=1) as runner:
        events = trace_events(runner, Profile((), runs), 1, {})
    assert problems(events, STRICT) == []
    first = {}
    for event in events:
        if "modelled_op" in event.get("args", {}):
            first.setdefault(event["args"]["run"], event["ts"])
    length = built.meta["modelled_cycles"]["1"]["estimate"] / 1000
    assert length > 20
    assert list(first.values()) == pytest.approx([0, length, 2 * length, 9000])


def test_a_run_that_fails_leaves_no_trace(command: Any, tmp_path: Path) -> None:
    path, bad = tmp_path / "t.json", tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    code, _, err = command("run", "-m", "pocket_fire", "-i", PICTURE, "-i", bad, "-t", path)
    assert code == 2
    assert "bad.png" in err
    assert not path.exists()


def test_nothing_of_tracing_is_loaded_or_opened_without_it(tmp_path: Path, cache: Path) -> None:
    """No second session, no profiling, none of the modules that make traces."""
    script = f"""
import sys, onnxruntime
opened = []
make = onnxruntime.InferenceSession.__init__
def noted(self, model, options=None, *rest, **named):
    opened.append(options.enable_profiling)
    make(self, model, options, *rest, **named)
onnxruntime.InferenceSession.__init__ = noted
sys.argv = ["topfive", "run", "-m", "pocket_fire", "-i", {str(PICTURE)!r}, "--artifact-cache", {str(cache)!r}]
from topfive.cli import main
try:
    main()
except SystemExit as left:
    assert left.code == 0
assert opened and not any(opened), opened
loaded = [name for name in sys.modules if name.startswith("topfive.trace.")]
assert loaded == ["topfive.trace.events"], loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# pytest --trace-dir

CARD = """
name = "tiny"
description = "a card of these tests"
tags = ["mine"]
[source]
kind = "bundled"
path = "models/pocket_fire.onnx"
[input]
size = [64, 64]
profile = "pocket64"
[output]
kind = "logits"
classes = 100
labels = "pocket100"
[pictures]
set = "pocket100"
count = 2
"""
TESTS = """
import pytest
@pytest.mark.golden
def test_golden(runner, pictures):
    runner.run(pictures.batch(1))
@pytest.mark.latency
def test_latency(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
@pytest.mark.golden
def test_failing(model, target, quant):
    assert quant != "int8"
def test_of_no_case():
    pass
"""
SETTINGS = """
golden.models = ["tag:mine"]
latency = {models = ["tag:mine"], max_seconds = 0.02, least_rounds = 3}
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
    for variable in (
        "CI",
        "TOPFIVE_CARDS",
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
    ):
        monkeypatch.delenv(variable, raising=False)
    for name, text in {
        "pytest.ini": "[pytest]\nstrict = true\n",
        "bench/suite.toml": SETTINGS,
        "bench/test_all.py": TESTS,
        "cards/tiny.toml": CARD,
    }.items():
        place = pytester.path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--cards", "cards", "--targets", "cpu,gemmini_sim", *arguments
        )

    return run


def test_one_trace_a_case(suite: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    from topfive.trace import recording

    folder = pytester.path / "new" / "traces"
    made: list[Path] = []
    write = recording.write_trace

    def noted(events: Any, out: Path) -> None:
        made.append(out)
        write(events, out)

    monkeypatch.setattr(recording, "write_trace", noted)
    suite("--trace-dir", str(folder), "--quant", "force_float32,int8").assert_outcomes(passed=8, failed=2)
    # Not once more for the second and third test of a case.
    assert len(made) == len(set(made)) == 3
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert sorted(found) == [
        "tiny-cpu-force_float32.json",
        "tiny-cpu-int8.json",
        "tiny-gemmini_sim-int8.json",
    ]
    for name, events in found.items():
        assert problems(events, STRICT) == []
        about = events[0]["args"]
        assert name == f"{about['model']}-{about['target']}-{about['quant']}.json"
        assert about["runs"] == 1
        assert "test_all.py::test_" in about["command"]
        assert bool(about["modelled"]) == (about["target"] == "gemmini_sim")
        assert nodes_of(events)


def test_a_test_that_fails_makes_no_trace(suite: Any, pytester: pytest.Pytester) -> None:
    folder = pytester.path / "traces"
    suite("--trace-dir", str(folder), "--quant", "int8", "-k", "failing").assert_outcomes(failed=2)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_trace_is_never_made_beside_other_work(suite: Any) -> None:
    found = suite("--trace-dir", "traces", "-n2", "-m", "golden")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert "--trace-dir cannot go with -n" in "\n".join(found.errlines)


def test_a_trace_folder_that_is_a_file_is_a_usage_error(suite: Any, pytester: pytest.Pytester) -> None:
    (pytester.path / "file").write_text("")
    found = suite("--trace-dir", "file")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert "--trace-dir file: is a file" in "\n".join(found.errlines)
