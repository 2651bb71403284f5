"""Pairs: the statistics, the turns, and real models on a machine that other processes load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.commands.pair import measure_pair
from topfive.errors import OptionError, RunError
from topfive.pairing import (
    HelperSide,
    RunnerSide,
    Side,
    Slots,
    Timed,
    cpu_ratio_of,
    helper_of,
    interleave,
    open_side,
    ratio_of,
)
from topfive.pairing.sides import input_of
from topfive.records import list_records

from topfive_command import run_topfive

BURNER = "while True: pass"
BURSTS = """
import random, sys, time
seconds = random.Random(int(sys.argv[1])).uniform
while True:
    end = time.monotonic() + seconds(0.3, 2)
    while time.monotonic() < end: pass
    time.sleep(seconds(0.3, 2))
"""


class Clocked(Side):
    """A side whose calls take what it is told, and that notes its turns."""

    def __init__(self, name, seconds, turns):
        self.name, self.seconds, self.turns = name, seconds, turns

    def calls(self, count):
        self.turns.append(self.name)
        return Timed([self.seconds] * count, [self.seconds / 4] * count)


class Twice(RunnerSide):
    """The same model run twice a call."""

    def calls(self, count):
        single = super().calls(2 * count)
        return Timed(*([times[2 * n] + times[2 * n + 1] for n in range(count)] for times in single))


def test_turns_are_a_b_b_a():
    turns: list[str] = []
    slots = interleave(
        Clocked("A", 1e-3, turns),
        Clocked("B", 2e-3, turns),
        enough=lambda found: found.rounds >= 10,
        rounds=5,
    )
    assert "".join(turns[2:]) == "ABBA" * 10
    assert (slots.a == 1e-3).all()
    assert (slots.b == 2e-3).all()
    assert slots.calls == 3
    assert ratio_of(slots).ratio == pytest.approx(2)
    assert (slots.cpu_a == 0.25e-3).all()
    assert cpu_ratio_of(slots).ratio == pytest.approx(2)


class Interrupted(Clocked):
    """All calls of a turn but one are interrupted, and not twice for as long."""

    def calls(self, count):
        random = np.random.default_rng(len(self.turns))
        long = [self.seconds * (1 + wait) for wait in random.exponential(5, count)]
        long[random.integers(1, count)] = self.seconds
        self.turns.append(self.name)
        return Timed(long, long)


def test_an_interrupted_call_does_not_decide_its_turn():
    sides = Interrupted("A", 1e-3, []), Interrupted("B", 1.05e-3, [])
    slots = interleave(*sides, enough=lambda found: found.rounds >= 10, rounds=5)
    assert (slots.a == 1e-3).all()
    assert ratio_of(slots).ratio == pytest.approx(1.05)


def test_processor_time_is_not_waiting():
    random = np.random.default_rng(0)
    work = np.exp(0.01 * random.standard_normal((10, 30, 2)))
    waits = random.exponential(5, (2, 10, 30, 2))
    slots = Slots(work + waits[0], 2 * work + waits[1], work, 2 * work, 1)
    assert cpu_ratio_of(slots).ratio == pytest.approx(2)
    assert ratio_of(slots).ratio != pytest.approx(2, rel=0.05)
    assert cpu_ratio_of(Slots(slots.a, slots.b, 0 * work, work, 1)) is None


@settings(max_examples=20)
@given(st.floats(0.2, 5), st.integers(0, 100))
def test_the_ratio_is_found_under_a_load_that_drifts(factor, seed):
    random = np.random.default_rng(seed)
    load = np.exp(np.cumsum(0.05 * random.standard_normal(300))).reshape(10, 30, 1)
    a, b = (load * np.exp(0.05 * random.standard_normal((10, 30, 2))) for _ in "ab")
    slots = Slots(1e-3 * a, 1e-3 * factor * b, 1e-4 * a, 1e-4 * factor * b, 1)
    found = ratio_of(slots)
    assert found.ratio == pytest.approx(factor, rel=0.03)
    assert found.low < found.ratio < found.high
    assert ratio_of(slots) == found
    cpu = cpu_ratio_of(slots)
    assert (cpu.ratio, cpu.low, cpu.high) == pytest.approx((found.ratio, found.low, found.high))


def test_the_interval_covers_as_promised():
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        bursts = 1 + 20 * (random.random((10, 20, 2)) < 0.3)
        a = bursts * np.exp(0.02 * random.standard_normal((10, 20, 2)))
        b = (1 + 20 * (random.random((10, 20, 2)) < 0.3)) * np.exp(0.02 * random.standard_normal((10, 20, 2)))
        found = ratio_of(Slots(a, b, a, b, 1))
        covered += found.low <= 1 <= found.high
    assert covered >= 55


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return topfive.build("pocket_fire", target="cpu", quant="force_float32", cache=cache)


@contextmanager
def burning(script, count):
    """So many processes of a script, each told its number, until the end."""
    burners = [subprocess.Popen([sys.executable, "-c", script, str(n)]) for n in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.fixture
def load():
    """Processes that burn every processor, and one more."""
    with burning(BURNER, len(os.sched_getaffinity(0)) + 1):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("load")
def test_a_pair_holds_on_a_loaded_machine(pocket):
    batch = input_of(pocket, 1)
    with (
        topfive.open(pocket, threads=1) as first,
        topfive.open(pocket, threads=1) as second,
    ):
        same = RunnerSide("A", first, batch), RunnerSide("B", second, batch)
        slots = measure_pair(*same, precision=0.01, seconds=20)
        slower = ratio_of(measure_pair(same[0], Twice("B", second, batch), precision=0.05, seconds=10))
        # Calls longer than a time slice of the system are interrupted in nearly every turn.
        longer = input_of(pocket, 8)
        sides = RunnerSide("A", first, longer), Twice("B", second, longer)
        doubled = cpu_ratio_of(measure_pair(*sides, precision=0.05, seconds=6))
    equal, processor = ratio_of(slots), cpu_ratio_of(slots)
    assert equal.low <= 1 <= equal.high, equal
    assert abs(equal.ratio - 1) < 0.03, equal
    assert abs(processor.ratio - 1) < 0.03, processor
    assert slower.verdict == "B slower"
    assert slower.low > 1.3, slower
    assert abs(doubled.ratio / 2 - 1) < 0.1, doubled


def layers(path, count):
    """A model of so many equal 3x3 convolutions of 16 channels, after one of 3 channels."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number in range(count + 1):
        shape = (16, 16 if number else 3, 3, 3)
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, shape).astype(np.float32), f"w{number}"))
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [last := f"r{number}"]))
    nodes += [helper.make_node("GlobalAveragePool", [last], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ("n", 3, 16, 16)), ("y", ("n", 16)))
    ]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.fixture
def bursts():
    """Twice as many processes as processors that burn and rest by turns, each at its own times."""
    with burning(BURSTS, 2 * len(os.sched_getaffinity(0))):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("bursts")
def test_five_percent_more_work_is_measured_where_separate_runs_differ_by_twenty(tmp_path):
    made = [
        topfive.build(
            layers(tmp_path / f"{count}.onnx", count),
            target="cpu",
            quant="force_float32",
            cache=tmp_path / "cache",
        )
        for count in (20, 21, 0)
    ]
    with ExitStack() as opened:
        runners = [opened.enter_context(topfive.open(artifact, threads=1)) for artifact in made]
        batch = input_of(made[0], 1)
        *sides, none = (RunnerSide(name, runner, batch) for name, runner in zip("ABC", runners, strict=True))
        # What a call costs besides the 20 equal layers is in both: a layer more is 5 % of the rest.
        besides = ratio_of(measure_pair(sides[0], none, precision=0.1, seconds=5)).ratio
        more = 1 + (1 - besides) / 20
        # Images a second of one artifact alone, in runs of a second.
        runs = []
        for _ in range(15):
            start, calls = time.perf_counter(), 0
            while time.perf_counter() - start < 1:
                calls += len(sides[0].calls(1).wall)
            runs.append(calls / (time.perf_counter() - start))
        found = ratio_of(measure_pair(*sides, precision=0.005, seconds=40))
    assert max(runs) / min(runs) > 1.2
    assert 0 < besides < 0.3
    assert found.low <= more <= found.high, found
    assert abs(found.ratio / more - 1) < 0.03, found


def test_sides_of_the_command_line(pocket, tmp_path):
    side, artifact = open_side(str(pocket.path), batch=2, threads=1)
    assert isinstance(side, RunnerSide)
    assert artifact.key == pocket.key
    assert [len(times) for times in side.calls(3)] == [3, 3]
    side.close()
    other, _ = open_side(f"{sys.executable}@{pocket.path}", batch=1, threads=1)
    assert isinstance(other, HelperSide)
    assert other.about()["helper"]["topfive"] == topfive.__version__
    timed = other.calls(4)
    assert len(timed.wall) == len(timed.cpu) == 4
    assert all(second > 0 for times in timed for second in times)
    other.close()
    for wrong in ("pocket_fire", "a:b", "pocket_fire:cpu:int8:x", "::"):
        with pytest.raises(OptionError, match="MODEL:TARGET:QUANT"):
            open_side(wrong, batch=1, threads=1)
    assert helper_of(f"python@{tmp_path}") == ("python", tmp_path)
    assert helper_of("a@b")[0] == ""


@pytest.mark.parametrize(
    ("python", "words"),
    [("/no/such/python", "cannot be started"), ("/bin/false", "exit status 1")],
    ids=["absent", "dies"],
)
def test_a_helper_that_does_not_live(pocket, python, words):
    with pytest.raises(RunError, match=words):
        open_side(f"{python}@{pocket.path}", batch=1, threads=1)


def test_a_helper_that_dies_in_between(pocket):
    side, _ = open_side(f"{sys.executable}@{pocket.path}", batch=1, threads=1)
    side._process.kill()
    with pytest.raises(RunError, match="exit status -9"):
        side.calls(1)


def test_the_command(pocket, tmp_path):
    arguments = ("pair", pocket.path, pocket.path, "--seconds", "1", "--precision", "50%", "--threads", "1")
    where = ("--records", tmp_path)
    code, out, _ = run_topfive(*arguments, *where, "--json", "--gate", "400%")
    found = json.loads(out)
    assert code == 0
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["cpu"]["low"] <= found["cpu"]["ratio"] <= found["cpu"]["high"]
    assert found["cpu"]["median_a"] > 0
    (record,) = list_records(tmp_path)
    assert record.record["pair"]["cpu"] == found["cpu"]
    assert record.record["tests"][1]["cpu_rounds"]["shape"] == record.record["tests"][1]["rounds"]["shape"]
    assert record.kind == "pair"
    assert record.record["pair"]["rounds"] * 2 == record.record["tests"][0]["rounds"]["shape"][0]
    text = run_topfive(*arguments, *where, "--no-record")[1]
    assert text.startswith("A  ")
    assert "processor time B/A " in text
    assert len(list_records(tmp_path)) == 1
    assert run_topfive(*arguments, *where, "--gate", "many")[0] == 2
