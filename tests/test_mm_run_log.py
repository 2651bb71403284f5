"""mm_run's log, read whole and strictly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topfive.errors import RunError
from topfive.targets.mlu370.figures import check_log, parse_log

pytestmark = pytest.mark.mlu370

# Figures of force_float16_true_4_log_perf of Cambricon/magicmind_cloud.
LOG = (
    """==================== Parameter Information
magicmind model file: /models/resnet50_onnx_model_force_float16_true_1
input dims type: 0
iterations: 1000
duration: 3000
thread_num: 1
devices: 0
batch: 4
[MMINFO]  CreateModel time is 2318 ms
=================== Device Information
Device ID:                    0
Compute Capability:           3.0
Cluster Number:               6
Pageable Memory Access:       -307350535
[MMINFO]  Constdata Size: 48.798706 (MB)
[2022-8-15 16:52:54] [CNNL] [Warning]: a function is deprecated
==================== Model Information
Buffer Info: Input
Num: 1
[0]:
  Name: data
  Datatype: FLOAT
  Layout: NHWC
  Dim: [4, 224, 224, 3]
  Size: 2408448
  Ptr Addr: 0x30080ffb4054000
  TensorLoc: kMLU
Buffer Info: Output
Num: 1
[0]:
  Name: resnetv17_dense0_fwd
  Datatype: FLOAT
  Layout: NONE
  Dim: [4, 1000]
  Size: 16000
  Ptr Addr: 0x30080ffb42a0000
  TensorLoc: kMLU
==================== Device Utilization Summary
dev0_chip_util(%):            min: 20    max: 67    mean: 62.5  median: 67
dev0_power_info(W):           min: 26    max: 67    mean: 58.214 median: 63
==================== Performance Summary
Iterations:                   1363
Host Wall Time (s):           2.79882
MLU Compute Time (s):         2.75295
Throughput (qps):             1947.97
Enqueue Time (ms):            min: 0.18217    max: 3.2597     mean: 0.1955     median: 0.18935    \
percentile: (90%) 0.21535    (95%) 0.2168     (99%) 0.22603
H2D Latency (ms):             min: 0.191      max: 0.215      mean: 0.19871    median: 0.198      \
percentile: (90%) 0.203      (95%) 0.205      (99%) 0.209
MLU Compute Latency (ms):     min: 1.957      max: 2.226      mean: 2.0198     median: 2.007      \
percentile: (90%) 2.09       (95%) 2.117      (99%) 2.163
D2H Latency (ms):             min: 0.014      max: 0.027      mean: 0.015705   median: 0.015      \
percentile: (90%) 0.016      (95%) 0.021      (99%) 0.022
Trace averages of 136 runs:
"""
    + "  MLU Compute Latency (ms): 2.0025      Enqueue: 0.19735   \n" * 10
)
LOG = LOG.replace("Model Information\n", "Model Information \n").replace("[0]:\n", "[0]: \n")
PUBLISHED = "\n".join(
    [
        *("Iterations:                   1644", "Host Wall Time (s):           2.79905"),
        *("MLU Compute Time (s):         2.77971", "Throughput (qps):             587.342"),
        "Enqueue Time (ms):            min: 0.1791     max: 2.8197     mean: 0.19519    median: 0.18901    "
        "percentile: (90%) 0.20265    (95%) 0.24104    (99%) 0.30005",
        "H2D Latency (ms):             min: 0.059  max: 0.078 mean: 0.063502 median: 0.063 "
        "percentile: (90%) 0.065 (95%) 0.067 (99%) 0.073",
        "MLU Compute Latency (ms):     min: 1.684 max: 1.73 mean: 1.6908 median: 1.69 "
        "percentile: (90%) 1.693 (95%) 1.695 (99%) 1.723",
        next(line for line in LOG.splitlines() if line.startswith("D2H")),
        "Trace averages of 164 runs:",
        *["  MLU Compute Latency (ms): 1.6912      Enqueue: 0.19223"] * 10,
    ]
)
ASKED = {"batch": 4, "shape": (3, 224, 224), "clusters": (6, 8)}


def test_a_published_log_is_read_whole() -> None:
    log = parse_log(LOG)
    check_log(log, **ASKED)
    assert (log.throughput, log.iterations) == (1947.97, 1363)
    assert log.parameters["batch"] == "4"
    assert log.device["Cluster Number"] == "6"
    assert log.messages == {"CreateModel time": 2318.0, "Constdata Size": 48.798706}
    assert log.inputs[0].dims == (4, 224, 224, 3)
    assert (log.outputs[0].name, log.outputs[0].layout) == ("resnetv17_dense0_fwd", "NONE")
    assert log.utilisation["dev0_power_info(W)"].mean == 58.214
    spread = log.latencies["MLU Compute Latency (ms)"]
    assert (spread.median, spread.percentiles) == (2.007, {90: 2.09, 95: 2.117, 99: 2.163})
    assert (log.trace_runs, len(log.traces), log.traces[0]) == (136, 10, (2.0025, 0.19735))


def test_the_summary_of_the_s4_s_published_log() -> None:
    """Its lines as they were printed for force_float16, batch 1; not all percentiles of H2D, nor D2H."""
    text = LOG.replace("[4, ", "[1, ").replace("batch: 4", "batch: 1")
    text = text[: text.index("Iterations:")] + PUBLISHED
    log = parse_log(text)
    check_log(log, batch=1, shape=(3, 224, 224), clusters=(6,))
    assert (log.iterations, log.throughput) == (1644, 587.342)
    assert log.numbers["MLU Compute Time (s)"] == 2.77971
    enqueue = log.latencies["Enqueue Time (ms)"]
    assert (enqueue.least, enqueue.most, enqueue.mean, enqueue.median) == (0.1791, 2.8197, 0.19519, 0.18901)
    assert enqueue.percentiles == {90: 0.20265, 95: 0.24104, 99: 0.30005}
    compute = log.latencies["MLU Compute Latency (ms)"]
    assert (compute.least, compute.most, compute.mean, compute.median) == (1.684, 1.73, 1.6908, 1.69)
    assert compute.percentiles == {90: 1.693, 95: 1.695, 99: 1.723}
    assert log.latencies["H2D Latency (ms)"].mean == 0.063502
    assert (log.trace_runs, set(log.traces), len(log.traces)) == (164, {(1.6912, 0.19223)}, 10)


@settings(max_examples=60)
@given(st.integers(0, LOG.count("\n") - 1))
def test_a_log_that_is_cut_at_any_line_is_an_error(lines: int) -> None:
    cut = "\n".join(LOG.splitlines()[:lines])
    with pytest.raises(RunError):
        check_log(parse_log(cut), **ASKED)


@settings(max_examples=60)
@given(st.integers(1, 10**6), st.integers(1, 64), st.floats(1e-3, 1e4), st.floats(0.9, 1.1))
def test_throughput_must_be_iterations_by_wall_time(
    iterations: int, batch: int, wall: float, factor: float
) -> None:
    rate = iterations * batch / wall * factor
    text = LOG.replace("1363", str(iterations)).replace("2.79882", f"{wall:.6g}")
    text = text.replace("1947.97", f"{rate:.6g}").replace("[4, ", f"[{batch}, ")
    text = text.replace("averages of 136", f"averages of {max(iterations // 10, 1)}")
    wanted = iterations // max(iterations // 10, 1)
    trace = "  MLU Compute Latency (ms): 2.0025      Enqueue: 0.19735   \n"
    text = text.replace(trace * 10, trace * wanted)
    log = parse_log(text)
    if abs(factor - 1) < 0.0009:
        check_log(log, **{**ASKED, "batch": batch})
    elif abs(factor - 1) > 0.0011:
        with pytest.raises(RunError, match="contradicts itself"):
            check_log(log, **{**ASKED, "batch": batch})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Throughput (qps):             1947.97", "Throughput (qps):             fast", "documented form"),
        ("Iterations:                   1363", "Iterations:                   0", "no inference|contradicts"),
        ("Host Wall Time (s):           2.79882", "Host Wall Time (s):           0", "no inference"),
        ("max: 2.226", "max: 1.9", "not in order"),
        ("median: 2.007", "median: nan", "documented form"),
        ("Cluster Number:               6", "Cluster Number:               2", "has 2 clusters"),
        ("Dim: [4, 224, 224, 3]", "Dim: [8, 224, 224, 3]", "measured inputs"),
        ("Layout: NHWC", "Shape: NHWC", "documented form"),
        ("D2H Latency (ms)", "Z2Z Latency (ms)", "lacks D2H Latency"),
        ("Iterations:  ", "Extra: 1\nIterations:  ", "unknown figures Extra"),
        ("batch: 4\n", "batch: 4\nbatch: 4\n", "documented form"),
        ("==================== Performance Summary", "== Performance Summary", "lacks Performance Summary"),
    ],
)
def test_a_log_of_another_form_is_an_error(old: str, new: str, words: str) -> None:
    assert LOG.count(old) >= 1
    with pytest.raises(RunError, match=words):
        check_log(parse_log(LOG.replace(old, new)), **ASKED)
