"""topfive's emulated mm_run: measures the numeric twin on the CPU and prints mm_run's documented log.

Fails as TOPFIVE_EMULATED_FAILURE says: mm_run-exit, mm_run-truncated, mm_run-contradiction, mm_run-garbage,
mm_run-hang, mm_run-percentiles.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import magicmind


def arguments():
    later = tuple(int(part) for part in magicmind.__version__.split(".")[:2]) >= (1, 4)
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.splitlines()[0])
    parser = argparse.ArgumentParser("mm_run", allow_abbrev=False)
    parser.add_argument("--magicmind_model", required=True)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--duration", type=int, default=3000)
    parser.add_argument("--warm_up", type=int, default=200)
    parser.add_argument("--batch_size" if later else "--batch", type=int, default=1, dest="batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--devices", type=int, default=0)
    return parser.parse_args()


GIVEN = arguments()  # help is asked for often: before what takes long to import

import magicmind.python.runtime as mm  # noqa: E402
import numpy as np  # noqa: E402

FAILURE = os.environ.get(magicmind.FAILURE, "")


def spread(values, width=9):
    low, high, mean, middle = np.min(values), np.max(values), np.mean(values), np.median(values)
    p90, p95, p99 = (np.quantile(values, q) for q in (0.9, 0.95, 0.99))
    if FAILURE == "mm_run-percentiles":
        p90 = high * 2
    figures = [f"{value:<{width}.5g}" for value in (low, high, mean, middle, p90, p95, p99)]
    return "min: {} max: {} mean: {} median: {} percentile: (90%) {} (95%) {} (99%) {}".format(*figures)


def measured(given):
    model = mm.Model()
    status = model.deserialize_from_file(given.magicmind_model)
    if not status.ok():
        sys.exit(f"[MMERROR] {status}")
    with mm.System() as system:
        device = mm.Device()
        device.id = given.devices
        if given.devices >= system.device_count() or not device.active().ok():
            sys.exit(f"[MMERROR] Invalid device {given.devices}")
        config = mm.Model.EngineConfig()
        config.device_type = "MLU"
        engine = model.create_i_engine(config)
        if engine is None:
            sys.exit("[MMERROR] CreateIEngine failed")
        context, queue = engine.create_i_context(), device.create_queue()
        shape = [given.batch, *model.about["dims"][2:], model.about["dims"][1]]
        tensor = context.create_inputs()[0]
        seconds = []
        start = time.perf_counter()
        for _ in range(given.iterations):
            begun = time.perf_counter()
            tensor.from_numpy(np.zeros(shape, np.float32))
            tensor.to(device)
            outputs = []
            status = context.enqueue([tensor], outputs, queue)
            if not status.ok():
                sys.exit(f"[MMERROR] {status}")
            seconds.append(time.perf_counter() - begun)
        wall = time.perf_counter() - start
        return model.about, shape, outputs[0].asnumpy().shape, np.array(seconds) * 1e3, wall


def buffer(kind, name, layout, dims):
    print(f"Buffer Info: {kind}\nNum: 1\n[0]: \n  Name: {name}\n  Datatype: FLOAT\n  Layout: {layout}")
    print(f"  Dim: {list(map(int, dims))}\n  Size: {int(np.prod(dims)) * 4}\n  Ptr Addr: 0x1000")
    print("  TensorLoc: kMLU")


def main(given):
    if FAILURE == "mm_run-hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    about, shape, output, milliseconds, wall = measured(given)
    print("==================== Parameter Information")
    print(f"magicmind model file: {given.magicmind_model}\ninput dims type: 0")
    print(f"iterations: {given.iterations}\nduration: {given.duration}\nwarm_up: {given.warm_up}")
    print(f"thread_num: {given.threads}\ndevices: {given.devices} \nbatch: {given.batch}")
    print("[MMINFO]  CreateModel time is 2 ms")
    print("=================== Device Information")
    print(f"Device ID:                    {given.devices}\nCompute Capability:           3.0")
    print(f"Cluster Number:               {magicmind.clusters()}")
    print("[MMINFO]  Constdata Size: 1.500000 (MB)")
    print("[2022-8-15 16:52:54] [CNNL] [Warning]: a message of a library")
    print("==================== Model Information ")
    buffer("Input", "input", about["layout"], shape)
    buffer("Output", "output", "NONE", output)
    print("==================== Device Utilization Summary")
    for name in ("chip_util(%)", "mem_info(MB)", "power_info(W)", "temp_info(C)"):
        print(f"dev0_{name}:            min: 0    max: 0    mean: 0  median: 0   ")
    print("==================== Performance Summary")
    count = len(milliseconds)
    rate = count * given.batch / wall * (2 if FAILURE == "mm_run-contradiction" else 1)
    print(f"Iterations:                   {count}\nHost Wall Time (s):           {wall:.6g}")
    print(f"MLU Compute Time (s):         {milliseconds.sum() / 1e3:.6g}")
    print(f"Throughput (qps):             {rate:.6g}")
    if FAILURE == "mm_run-truncated":
        return
    if FAILURE == "mm_run-garbage":
        print("H2D Latency (ms):             fast")
    for name in ("Enqueue Time", "H2D Latency", "MLU Compute Latency", "D2H Latency"):
        print(f"{name} (ms):".ljust(30) + spread(milliseconds))
    runs = max(count // 10, 1)
    print(f"Trace averages of {runs} runs:")
    for at in range(count // runs):
        mean = milliseconds[at * runs : (at + 1) * runs].mean()
        print(f"  MLU Compute Latency (ms): {mean:<11.5g} Enqueue: {mean:<10.5g}")
    if FAILURE == "mm_run-exit":
        sys.exit(3)


main(GIVEN)
