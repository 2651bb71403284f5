"""Whole calibrations: against onnxruntime's calibrators, interrupted, with bad pictures."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from topfive.cards import expand, fixtures_root
from topfive.errors import CalibrateError, ImageError
from topfive.images import load_profile, preprocess_batch
from topfive.quantize.calibration import METHODS, Method, State, measure, minmax
from topfive.quantize.calibration.state import Progressed
from topfive.quantize.optimize import optimize

MODELS = ("pocket_fire", "pocket_mobilenet")
COUNT = 10


class Arrays:
    """Calibration data in memory."""

    def __init__(self, arrays: list[np.ndarray], bad: tuple[int, ...] = ()) -> None:
        self.arrays, self.bad = arrays, bad
        self.names = [f"picture_{i}" for i in range(len(arrays))]
        self.loaded: list[int] = []

    def load(self, index: int) -> np.ndarray:
        self.loaded.append(index)
        if index in self.bad:
            raise ImageError(f"{self.names[index]}: is damaged")
        return self.arrays[index]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, arrays: list[np.ndarray]) -> None:
        self.items = iter([{name: array} for array in arrays])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


def pictures(count: int = COUNT) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 1, (1, 3, 64, 64)).astype(np.float32) for _ in range(count)]


def bundled(name: str) -> onnx.ModelProto:
    return optimize(onnx.load(fixtures_root() / "models" / f"{name}.onnx"))


def theirs(
    model: onnx.ModelProto,
    folder: Path,
    method: str,
    arrays: list[np.ndarray] | None = None,
    **options: object,
) -> dict[str, tuple]:
    """The ranges of onnxruntime.quantization over the same pictures."""
    onnx.save(model, folder / "model.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            folder / "model.onnx",
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
            extra_options=options,
        )
        calibrator.collect_data(Reader(model.graph.input[0].name, arrays or pictures()))
        data = calibrator.compute_data()
    return {k: tuple(float(np.asarray(v).item()) for v in data[k].range_value) for k in data.keys()}  # noqa: SIM118


CASES = {
    "percentile_symmetric_99.99": ("Percentile", Method("percentile", True, 99.99), 2048),
    "percentile_symmetric_99": ("Percentile", Method("percentile", True, 99), 2048),
    "percentile_asymmetric_99.9": ("Percentile", Method("percentile", False, 99.9), 2048),
    "percentile_asymmetric_99.999": ("Percentile", Method("percentile", False, 99.999), 2048),
    "entropy_128": ("Entropy", Method("entropy_onnxruntime"), 128),
    "entropy_180": ("Entropy", Method("entropy_onnxruntime", bins=180), 180),
    "entropy_151_of_100": ("Entropy", Method("entropy_onnxruntime", bins=151, levels=100), 151),
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", MODELS)
def test_ranges_are_onnxruntimes_within_one_bin(name: str, case: str, tmp_path: Path) -> None:
    kind, method, bins = CASES[case]
    model = bundled(name)
    options = {"num_bins": bins, "symmetric": method.symmetric}
    if kind == "Percentile":
        options["percentile"] = method.percentile
    else:
        options["num_quantized_bins"] = method.histogram_levels
    wanted = theirs(model, tmp_path, kind, **options)
    seen = measure(model, Arrays(pictures()), Method()).ranges
    found = measure(model, Arrays(pictures()), method).ranges
    compared = 0
    for tensor, ends in found.items():
        if tensor not in wanted:
            continue
        bound = max(map(abs, seen[tensor]))
        # Of absolute values the bins cover one side only.
        width = (1 if kind == "Percentile" and method.symmetric else 2) * bound / bins
        left, right = wanted[tensor]
        if method.symmetric:
            # Theirs is cut to the minimum and maximum even so.
            assert max(abs(left), abs(right)) == pytest.approx(ends[1], abs=width), tensor
            assert ends[0] == -ends[1]
        else:
            assert ends == pytest.approx((left, right), abs=width * (1 + 1e-6)), tensor
        compared += 1
    assert compared >= 30


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_a_real_network_on_photographs_agrees_within_one_bin(symmetric: bool, tmp_path: Path) -> None:
    data = expand("$TOPFIVE_DATA", Path(__file__).parent)
    model = optimize(onnx.load(data / "models" / "mobilenetv1-0.25-128.onnx"))
    photographs = sorted((data / "images").glob("*.JPEG"))[:12]
    arrays = [preprocess_batch([path], load_profile("tf"), (128, 128)) for path in photographs]
    options = {"symmetric": symmetric, "percentile": 99.99, "num_bins": 2048}
    wanted = theirs(model, tmp_path, "Percentile", arrays, **options)
    found = measure(model, Arrays(arrays), Method("percentile", symmetric)).ranges
    seen = measure(model, Arrays(arrays), Method(symmetric=True)).ranges
    assert len(set(found) & set(wanted)) >= 50
    for tensor, (low, high) in found.items():
        width = (1 if symmetric else 2) * seen[tensor][1] / 2048
        left, right = wanted[tensor]
        assert abs(max(abs(left), abs(right)) - high if symmetric else right - high) < width, tensor
        assert symmetric or abs(left - low) < width, tensor


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_minmax_is_onnxruntimes_exactly(symmetric: bool, tmp_path: Path) -> None:
    model = bundled("pocket_mobilenet")
    wanted = theirs(model, tmp_path, "MinMax", symmetric=symmetric)
    batches = Arrays([np.concatenate(pictures())])
    one_by_one = minmax(model, pictures()).ranges
    found = measure(model, batches, Method("minmax", symmetric)).ranges
    assert len(found) >= 40
    for tensor, ends in found.items():
        if not symmetric:
            assert one_by_one[tensor] == wanted[tensor], tensor
        assert ends == pytest.approx(wanted[tensor], rel=1e-4, abs=1e-5), tensor


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse", "entropy_onnxruntime"])
def test_histograms_do_not_depend_on_how_samples_are_filed(method: str) -> None:
    model = bundled("pocket_fire")
    chosen = Method(method, bins=256 if method == "entropy_onnxruntime" else 0)
    alone = measure(model, Arrays(pictures(6)), chosen)
    in_files = measure(model, Arrays([np.concatenate(pictures(6))]), chosen)
    assert alone.ranges == in_files.ranges
    assert alone.provenance == in_files.provenance
    assert alone.method == method


def test_the_methods_differ_and_none_reaches_beyond_minmax() -> None:
    model = bundled("pocket_fire")
    tables = {name: measure(model, Arrays(pictures(4)), Method(name, True)).ranges for name in METHODS}
    seen = tables["minmax"]
    for name in ("percentile", "entropy", "mse"):
        narrower = [t for t, (_, high) in tables[name].items() if high < seen[t][1]]
        assert len(narrower) > len(seen) / 2, name
        assert all(high <= seen[t][1] * (1 + 1e-6) for t, (_, high) in tables[name].items()), name
    # onnxruntime's default number of bins leaves one window, the whole; here run one by one, not in eights.
    for tensor, ends in tables["entropy_onnxruntime"].items():
        assert ends == pytest.approx(seen[tensor], rel=1e-4), tensor


def clipped_model(factor: float) -> onnx.ModelProto:
    """Relu of something that reaches far below zero and only a little above."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["y"]),
    ]
    constants = {"factor": np.float32(factor), "shift": np.float32(-factor + 1)}
    graph = helper.make_graph(
        nodes,
        "clipped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("factor", [1.0, 1000.0], ids=["near", "far"])
def test_a_relu_has_the_range_of_its_own_values(factor: float) -> None:
    """Made from its input's histogram; counted itself where that would be too coarse (a second pass)."""
    random = np.random.default_rng(0)
    arrays = [random.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32) for _ in range(40)]
    files = Arrays(arrays)
    table = measure(clipped_model(factor), files, Method("percentile", True, 99))
    values = np.maximum(np.stack(arrays) * np.float32(factor) + np.float32(-factor + 1), 0)
    assert table.ranges["y"][1] == pytest.approx(np.quantile(values, 0.99), rel=2e-2, abs=1e-3)
    assert len(files.loaded) == (80 if factor > 1 else 40)
    assert table.provenance["pictures"] == 40


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_calibration_goes_on_with_the_same_bits(method: str, tmp_path: Path) -> None:
    model = bundled("pocket_fire")
    chosen = Method(method, bins=200 if method == "entropy_onnxruntime" else 0)
    whole = measure(model, Arrays(pictures()), chosen)

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 9:
            raise StoppedError

    state = State(tmp_path / "state.npz", "key")
    with pytest.raises(StoppedError):
        measure(model, Arrays(pictures()), chosen, state=state, store_seconds=0, progress=stop)
    files = Arrays(pictures())
    resumed = measure(model, files, chosen, state=state, store_seconds=0)
    # minmax takes eight at a time: what waited for the rest of its eight is read again.
    assert files.loaded[0] == (8 if method == "minmax" else 9)
    assert resumed == whole


KILLED = """
import sys, time
from pathlib import Path
import numpy as np, onnx
sys.path.insert(0, sys.argv[1])
from test_calibration_measure import Arrays, bundled, pictures
from topfive.quantize.calibration import Method, State, measure

class Slow(Arrays):
    def load(self, index):
        time.sleep(0.05)
        return super().load(index)

measure(bundled("pocket_fire"), Slow(pictures(200)), Method("entropy"),
        state=State(Path(sys.argv[2]), "key"), store_seconds=0)
"""


def test_a_killed_calibration_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    place = tmp_path / "state.npz"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(place)]
    process = subprocess.Popen(command, env={**os.environ, "TOPFIVE_THREADS": "1"})
    state = State(place, "key")
    try:
        deadline = time.monotonic() + 60
        while not (place.exists() and (found := state.read()) and found.files >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    stored = state.read()
    assert stored is not None
    assert 3 <= stored.files < 200
    files = Arrays(pictures(stored.files + 5))
    resumed = measure(bundled("pocket_fire"), files, Method("entropy"), state=state, threads=1)
    assert files.loaded[0] == stored.files
    whole = measure(bundled("pocket_fire"), Arrays(pictures(stored.files + 5)), Method("entropy"), threads=1)
    assert resumed == whole


def test_the_state_of_something_else_is_not_used(tmp_path: Path) -> None:
    State(tmp_path / "s.npz", "one").write(Progressed(1, 3, 3, (), {"low": np.zeros(1, np.float32)}))
    assert State(tmp_path / "s.npz", "one").read() is not None
    assert State(tmp_path / "s.npz", "two").read() is None


def test_finishing_forgets_the_state_and_others_that_are_old(tmp_path: Path) -> None:
    progressed = Progressed(1, 3, 3, (), {"low": np.zeros(1, np.float32)})
    done, recent, old = (State(tmp_path / f"{name}.npz", name) for name in ("done", "recent", "old"))
    for state in (done, recent, old):
        state.write(progressed)
    week = 8 * 24 * 3600
    os.utime(old.path, (time.time() - week, time.time() - week))
    done.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recent.npz"]


@pytest.mark.parametrize("damage", ["cut", "not_a_zip", "empty"])
def test_a_damaged_state_is_said_and_left_unused(damage: str, tmp_path: Path) -> None:
    place = tmp_path / "s.npz"
    State(place, "key").write(Progressed(1, 3, 3, (), {"low": np.zeros(1000, np.float32)}))
    whole = place.read_bytes()
    place.write_bytes({"cut": whole[: len(whole) // 2], "not_a_zip": b"PK nothing", "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged calibration state"):
        assert State(place, "key").read() is None


def test_a_picture_that_cannot_be_read_is_named_with_its_place() -> None:
    with pytest.raises(
        ImageError, match=r"picture_4: is damaged \(calibration picture 5 of 10\); --skip-bad"
    ):
        measure(bundled("pocket_fire"), Arrays(pictures(), bad=(4,)), Method())


@pytest.mark.parametrize("method", ["minmax", "entropy", "entropy_onnxruntime"])
def test_bad_pictures_are_left_out_and_named_if_asked(method: str) -> None:
    chosen = Method(method, bins=200 if method == "entropy_onnxruntime" else 0)
    model, good = bundled("pocket_fire"), [p for i, p in enumerate(pictures()) if i not in (2, 9)]
    table = measure(model, Arrays(pictures(), bad=(2, 9)), chosen, skip_bad=True)
    assert table.ranges == measure(model, Arrays(good), chosen).ranges
    assert table.provenance["skipped"] == ["picture_2", "picture_9"]
    assert table.provenance["pictures"] == COUNT - 2


def test_nothing_but_bad_pictures_is_an_error() -> None:
    with pytest.raises(CalibrateError, match="every picture of it was skipped"):
        measure(bundled("pocket_fire"), Arrays(pictures(2), bad=(0, 1)), Method(), skip_bad=True)


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_what_is_not_finite_names_tensor_and_picture(method: str) -> None:
    arrays = pictures(3)
    arrays[1] = np.full_like(arrays[1], np.inf)
    with pytest.raises(CalibrateError, match=r"'input' is not finite for .*picture_1"):
        measure(bundled("pocket_fire"), Arrays(arrays), Method(method))


def test_a_fixed_batch_takes_whole_batches_only() -> None:
    model = clipped_model(1.0)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    arrays = [np.zeros((1, 3, 8, 8), np.float32)] * 5
    assert measure(model, Arrays(arrays[:4]), Method("mse")).provenance["pictures"] == 4
    with pytest.raises(CalibrateError, match="1 calibration samples are left over"):
        measure(model, Arrays(arrays), Method("mse"))


def test_progress_counts_files_over_both_passes() -> None:
    seen = []
    chosen = Method("entropy_onnxruntime", bins=200)
    measure(bundled("pocket_fire"), Arrays(pictures(3)), chosen, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6)]
