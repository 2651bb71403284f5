"""topfive's emulated trtexec: builds and runs with the numeric twin, prints what trtexec documents.

Fails as TOPFIVE_EMULATED_FAILURE says: those of the emulated library, and trtexec-exit, trtexec-failed,
trtexec-truncated, trtexec-contradiction, trtexec-latency, trtexec-garbage, trtexec-hang, trtexec-output.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from emulated_version import MAJOR, MINOR, PATCH

NAME = f"TensorRT.trtexec [TensorRT v{MAJOR * 10000 + MINOR * 100 + PATCH}]"
LINE = " ".join(sys.argv)
if sys.argv[1:] in (["--help"], ["-h"]):  # asked for often: before what takes long to import
    print(__doc__.splitlines()[0])
    print(f"&&&& RUNNING {NAME} # {LINE}")
    sys.exit()

import numpy as np  # noqa: E402
import tensorrt as trt  # noqa: E402
from cuda.bindings import runtime  # noqa: E402

from topfive.targets.tensorrt.building import build, logger  # noqa: E402

FAILURE = os.environ.get(trt.FAILURE, "")
VALUES = {
    "onnx",
    "saveEngine",
    "loadEngine",
    "minShapes",
    "optShapes",
    "maxShapes",
    "shapes",
    "device",
    "iterations",
    "duration",
    "warmUp",
    "percentile",
    "loadInputs",
    "exportOutput",
    "dynamicPlugins",
    *(("calib",) if MAJOR < 11 else ()),
}
SWITCHES = {"noTF32", "skipInference", *(("fp16", "int8") if MAJOR < 11 else ())}


def say(text, level="I"):
    print(f"[11/22/2026-12:00:00] [{level}] {text}", flush=True)


def failed(text):
    say(text, "E")
    print(f"&&&& FAILED {NAME} # {LINE}")
    sys.exit(1)


def arguments():
    given, plugins = {}, []
    for argument in sys.argv[1:]:
        name, equals, value = argument.removeprefix("--").partition("=")
        known = argument.startswith("--") and (name in VALUES if equals else name in SWITCHES)
        if not known or (name in given and name != "dynamicPlugins"):
            failed(f"Unknown option: {argument}")
        if name == "dynamicPlugins":
            plugins.append(value)
        given[name] = value
    return given, plugins


def shape(text):
    name, _, sizes = text.rpartition(":")
    return name, [int(size) for size in sizes.split("x")]


def selected(given):
    """The device that is asked for, as CUDA counts; what trtexec says of it."""
    status, *_ = runtime.cudaSetDevice(int(given.get("device", "0")))
    if status != runtime.cudaError_t.cudaSuccess:
        failed(f"Cuda failure: {status.name}")
    properties = runtime.cudaGetDeviceProperties(int(given.get("device", "0")))[1]
    return {"name": properties.name.decode(), "capability": f"{properties.major}.{properties.minor}"}


def built(given, plugins):
    ends = [shape(given[key]) for key in ("minShapes", "optShapes", "maxShapes") if key in given]
    if len(ends) not in (0, 3):
        failed("shapes need a minimum, an optimum and a maximum")
    cache = Path(given["calib"]).read_bytes() if "calib" in given else b""
    job = {
        "model": given["onnx"],
        "engine": given["saveEngine"],
        "quant": "int8" if "int8" in given else "force_float16" if "fp16" in given else "force_float32",
        "quantisation": "cache" if cache else "",
        "cache": given.get("calib", ""),
        "method": "minmax" if cache.startswith(b"TRT") and b"MinMax" in cache.splitlines()[0] else "entropy",
        "plugins": plugins,
        "input": ends[0][0] if ends else "",
        "profile": [sizes for _, sizes in ends] or None,
        "workspace": 0,
        "device": int(given["device"]),
        "gpu": selected(given),
    }
    try:
        build(job)
    except Exception as error:
        failed(str(error))


def spread(values):
    low, high, mean, middle = np.min(values), np.max(values), np.mean(values), np.median(values)
    p90, p95, p99 = (np.quantile(values, q) for q in (0.9, 0.95, 0.99))
    return (
        f"min = {low:.6g} ms, max = {high:.6g} ms, mean = {mean:.6g} ms, median = {middle:.6g} ms, "
        f"percentile(90%) = {p90:.6g} ms, percentile(95%) = {p95:.6g} ms, percentile(99%) = {p99:.6g} ms"
    )


def ran(given):
    content = Path(given["loadEngine"]).read_bytes()
    log = logger(trt)
    engine = trt.Runtime(log).deserialize_cuda_engine(content)
    if engine is None:
        failed("Engine deserialization failed: " + "; ".join(log.messages))
    name, sizes = shape(given["shapes"])
    context = engine.create_execution_context()
    if name != engine.io[0] or not context.set_input_shape(name, sizes):
        failed(f"{given['shapes']} does not fit the engine")
    batch = np.zeros(sizes, np.float32)
    if "loadInputs" in given:
        key, _, file = given["loadInputs"].partition(":")
        content = Path(file).read_bytes()
        if key != name or len(content) != batch.nbytes:
            failed("loadInputs does not fit")
        batch = np.frombuffer(content, np.float32).reshape(sizes)
    compute, start = [], time.perf_counter()
    least, seconds = int(given.get("iterations", 10)), float(given.get("duration", 3))
    while len(compute) < least or time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        (output,) = engine.session.run(None, {name: batch})
        compute.append(1e3 * (time.perf_counter() - begun))
    return np.array(compute), time.perf_counter() - start, engine.io[1], output


def report(compute, wall):
    say("=== Performance summary ===")
    queries = len(compute)
    say(f"Throughput: {queries / wall * (2 if FAILURE == 'trtexec-contradiction' else 1):.6g} qps")
    if FAILURE == "trtexec-truncated":
        sys.exit(0)
    copy = np.zeros(queries)
    latency = compute * (2 if FAILURE == "trtexec-latency" else 1)
    say(f"Latency: {spread(latency)}")
    say(f"Enqueue Time: {'soon' if FAILURE == 'trtexec-garbage' else spread(copy)}")
    say(f"H2D Latency: {spread(copy)}")
    say(f"GPU Compute Time: {spread(compute)}")
    say(f"D2H Latency: {spread(copy)}")
    say(f"Total Host Walltime: {wall:.6g} s")
    say(f"Total GPU Compute Time: {compute.sum() / 1e3:.6g} s")
    say("* GPU compute time is unstable, with coefficient of variance = 20.4616%.", "W")
    say("Explanations of the performance metrics are printed in the verbose logs.")


def main():
    print(f"&&&& RUNNING {NAME} # {LINE}", flush=True)
    if FAILURE == "trtexec-hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    given, plugins = arguments()
    gpu = selected(given)
    say("=== Device Information ===")
    say(f"Selected Device: {gpu['name']}")
    say(f"Compute Capability: {gpu['capability']}")
    if ("onnx" in given) == ("loadEngine" in given):
        failed("Model missing or model and engine both given")
    if "onnx" in given:
        if "saveEngine" not in given or "skipInference" not in given:
            failed("only building alone is emulated")
        built(given, plugins)
    else:
        compute, wall, name, output = ran(given)
        if "exportOutput" in given:
            sizes = "x".join(map(str, output.shape))
            values = ", ".join(f"{value:.6g}" for value in output.reshape(-1))
            text = (
                f'[\n  {{ "name" : "{name}"\n  , "dimensions" : "{sizes}"\n'
                f'  , "values" : [ {values} ]\n  }}\n]\n'
            )
            kept = len(text) // 2 if FAILURE == "trtexec-output" else len(text)
            Path(given["exportOutput"]).write_text(text[:kept])
        report(compute, wall)
    if FAILURE == "trtexec-failed":
        failed("an error")
    print(f"&&&& PASSED {NAME} # {LINE}")
    if FAILURE == "trtexec-exit":
        sys.exit(4)


main()
