"""trtexec's command lines, and what it prints, read strictly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topfive.errors import RunError
from topfive.targets.tensorrt.trtexec import (
    build_command,
    check_device,
    measure_command,
    parse_output,
    parse_summary,
)

pytestmark = pytest.mark.tensorrt


def test_command_lines() -> None:
    shapes = [[1, 3, 8, 8], [4, 3, 8, 8], [16, 3, 8, 8]]
    found = build_command("trtexec", name="x", profile=shapes, flags=["--fp16"], plugins=["./p.so"], device=1)
    assert found == [
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=engine.plan",
        "--minShapes=x:1x3x8x8",
        "--optShapes=x:4x3x8x8",
        "--maxShapes=x:16x3x8x8",
        "--noTF32",
        "--fp16",
        "--dynamicPlugins=./p.so",
        "--device=1",
        "--skipInference",
    ]
    given_ = {"device": 0, "plugins": [], "iterations": 10, "seconds": 3, "warm_up": 200}
    found = measure_command("trtexec", "e.plan", name="x", shape=(4, 3, 8, 8), **given_)
    assert found[1:] == [
        "--loadEngine=e.plan",
        "--shapes=x:4x3x8x8",
        "--device=0",
        "--iterations=10",
        "--duration=3",
        "--warmUp=200",
        "--percentile=90,95,99",
    ]


# What trtexec prints

SPREAD = (
    "min = {0} ms, max = {1} ms, mean = {2} ms, median = {3} ms, "
    "percentile(90%) = {4} ms, percentile(95%) = {5} ms, percentile(99%) = {6} ms"
)


def summary(**changed: str) -> str:
    """A summary with figures as a GPU printed them."""
    rows = {
        "Throughput": "1099.65 qps",
        "Latency": SPREAD.format(1.12085, 5.30969, 1.17602, 1.17322, 1.18164, 1.18457, 1.20386),
        "Enqueue Time": SPREAD.format(0.697998, 5.14844, 0.865324, 0.88208, 0.89624, 0.901215, 0.947876),
        "H2D Latency": SPREAD.format(0.202148, 0.24292, 0.219057, 0.221542, 0.225708, 0.227783, 0.236572),
        "GPU Compute Time": SPREAD.format(
            0.803711, 4.93372, 0.818735, 0.809937, 0.811035, 0.811035, 0.812012
        ),
        "D2H Latency": SPREAD.format(0.112061, 0.168457, 0.138235, 0.142334, 0.147095, 0.149506, 0.15715),
        "Total Host Walltime": "3.00186 s",
        "Total GPU Compute Time": "2.70264 s",
    }
    rows |= {name.replace("_", " "): text for name, text in changed.items()}
    stamp = "[09/02/2024-17:14:34] [I] "
    return "\n".join(
        [
            "&&&& RUNNING TensorRT.trtexec [TensorRT v101303] # trtexec",
            f"{stamp}=== Performance summary ===",
            *(f"{stamp}{name}: {text}" for name, text in rows.items()),
            "[09/02/2024-17:14:34] [W] * Throughput may be bound by Enqueue Time",
            "&&&& PASSED TensorRT.trtexec [TensorRT v101303] # trtexec",
        ]
    )


def test_a_summary_is_read_whole() -> None:
    found = parse_summary(summary())
    assert (found.queries_per_s, found.queries) == (1099.65, 3301)
    assert found.spreads["Latency"].p99 == 1.20386
    assert found.totals == {"Total Host Walltime": 3.00186, "Total GPU Compute Time": 2.70264}
    assert found.warnings == ("* Throughput may be bound by Enqueue Time",)


@settings(max_examples=40)
@given(st.integers(0, 11))
def test_a_summary_that_is_cut_at_any_line_is_an_error(lines: int) -> None:
    with pytest.raises(RunError):
        parse_summary("\n".join(summary().splitlines()[:lines]))


@settings(max_examples=40)
@given(st.integers(0, 11))
def test_a_summary_that_lacks_a_line_is_an_error(line: int) -> None:
    lines = summary().splitlines()
    del lines[line]
    if line in (0, 10):
        parse_summary("\n".join(lines))
    else:
        with pytest.raises(RunError):
            parse_summary("\n".join(lines))


@settings(max_examples=60)
@given(st.floats(0.5, 2.0))
def test_throughput_must_be_that_of_the_times(factor: float) -> None:
    text = summary(Throughput=f"{1099.65 * factor:.6g} qps")
    if abs(factor - 1) < 0.009:
        parse_summary(text)
    elif abs(factor - 1) > 0.011:
        with pytest.raises(RunError, match="contradicts itself"):
            parse_summary(text)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Throughput": "fast"}, "0 throughputs"),
        ({"Latency": "1 ms"}, "Latency is not of the documented form"),
        ({"Latency": SPREAD.format(2, 1, 1, 1, 1, 1, 1)}, "not in order"),
        ({"Total_Host_Walltime": "3 minutes"}, "Total Host Walltime is not"),
        ({"Total_Host_Walltime": "0 s"}, "finished no inference"),
    ],
)
def test_a_summary_of_another_form_is_an_error(changed: dict[str, str], words: str) -> None:
    with pytest.raises(RunError, match=words):
        parse_summary(summary(**changed))


def test_the_gpu_that_trtexec_names_must_be_the_one_asked_for() -> None:
    said = "[09/02/2024-17:14:34] [I] Selected Device: NVIDIA A10\n" + summary()
    check_device(said, "NVIDIA A10")
    check_device(summary(), "NVIDIA A10")
    with pytest.raises(RunError, match="trtexec used NVIDIA A10, not NVIDIA L4: set CUDA_DEVICE_ORDER"):
        check_device(said, "NVIDIA L4")


def test_a_failed_or_doubled_summary_is_an_error() -> None:
    with pytest.raises(RunError, match="says that it failed"):
        parse_summary(summary() + "\n&&&& FAILED TensorRT.trtexec [TensorRT v101303] # trtexec")
    with pytest.raises(RunError, match="2 performance summaries"):
        parse_summary(summary() + "\n" + summary())


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 7), st.randoms(use_true_random=False))
def test_an_exported_output_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, batch: int, classes: int, random: object
) -> None:
    path = tmp_path_factory.mktemp("output") / "output.json"
    values = [random.uniform(-9, 9) for _ in range(batch * classes)]  # type: ignore[attr-defined]
    tensor = {"name": "y", "dimensions": f"{batch}x{classes}", "values": values}
    path.write_text(json.dumps([tensor]))
    np.testing.assert_array_equal(
        parse_output(path, batch), np.asarray(values, np.float32).reshape(batch, classes)
    )
    with pytest.raises(RunError, match="not what --exportOutput writes"):
        parse_output(path, batch, indices=True)
    path.write_text(json.dumps([{**tensor, "values": list(range(batch * classes))}]))
    assert parse_output(path, batch).dtype == np.float32
    indices = parse_output(path, batch, indices=True)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices.reshape(-1), np.arange(batch * classes))
    path.write_text(json.dumps([{**tensor, "values": values[1:]}]))
    with pytest.raises(RunError, match="values of shape"):
        parse_output(path, batch)
    with pytest.raises(RunError, match="not what --exportOutput writes"):
        parse_output(path.parent / "absent.json", batch)
