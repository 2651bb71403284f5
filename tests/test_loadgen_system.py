"""LoadGen's samples and the system under test, without LoadGen."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.loadgen.child import Samples, System

SIDE = 8


class Recorder:
    """Takes the place of the LoadGen module: reads the answers at their addresses, as LoadGen does."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, float | None]] = []

    def QuerySampleResponse(  # noqa: N802
        self, name: int, address: int, size: int
    ) -> tuple[int, int, int]:
        return name, address, size

    def QuerySamplesComplete(  # noqa: N802
        self, responses: list[tuple[int, int, int]]
    ) -> None:
        for name, address, size in responses:
            value = struct.unpack("<f", ctypes.string_at(address, 4))[0] if size else None
            self.answers.append((name, value))


def _unloaded(count: int) -> Samples:
    crops = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    crops[:, 0, 0, 0] = np.arange(count)
    return Samples(crops, "torchvision")


def _samples(count: int) -> Samples:
    samples = _unloaded(count)
    samples.load(range(count))
    return samples


@given(st.integers(1, 9), st.lists(st.integers(0, 19), min_size=1, max_size=40), st.booleans())
def test_every_sample_gets_its_own_answer(batch: int, indices: list[int], background: bool) -> None:
    samples, recorder = _samples(20), Recorder()
    one_by_one = {i: int(samples[i][0, 0, 0, 0] * 58.395 / 0.1) % 7 for i in range(20)}

    def infer(data: np.ndarray) -> np.ndarray:
        keys = [int(picture[0, 0, 0] * 58.395 / 0.1) % 7 for picture in data]
        return np.eye(7, dtype=np.float32)[keys]

    system = System(recorder, infer, samples, batch=batch, background=background)
    system.issue(list(range(100, 100 + len(indices))), indices)
    assert recorder.answers == [(100 + n, one_by_one[i] - background) for n, i in enumerate(indices)]


def test_an_accuracy_run_keeps_the_five_best_of_every_sample() -> None:
    scores = np.random.default_rng(0).random((12, 7)).astype(np.float32)
    place = {"next": 0}

    def infer(data: np.ndarray) -> np.ndarray:
        start = place["next"]
        place["next"] += len(data)
        return scores[start : place["next"]]

    top5 = np.full((20, 5), -1, np.int32)
    indices = [3, 19, 0, 5, 7, 11, 2, 1, 4, 6, 8, 10]
    recorder = Recorder()
    system = System(recorder, infer, _samples(20), batch=5, background=True, top5=top5)
    system.issue(list(range(12)), indices)
    expected = np.argsort(-scores, axis=1)[:, :5] - 1
    np.testing.assert_array_equal(top5[indices], expected)
    assert [answer for _, answer in recorder.answers] == expected[:, 0].tolist()
    assert (top5[9] == -1).all()


def test_after_a_failure_every_sample_is_answered_with_nothing() -> None:
    recorder = Recorder()

    def infer(data: np.ndarray) -> np.ndarray:
        if len(recorder.answers) >= 2:
            raise RuntimeError("broken on purpose")
        return np.zeros((len(data), 3), np.float32)

    system = System(recorder, infer, _samples(6), batch=2, background=False)
    system.issue([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    assert recorder.answers == [(0, 0.0), (1, 0.0), (2, None), (3, None), (4, None), (5, None)]
    assert "broken on purpose" in system.failure


# Samples


def test_samples_are_loaded_once_and_unloaded() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    samples = Samples(crops, "torchvision")
    samples.load([4, 1, 4])
    kept = samples[1]
    samples.load([1, 2])
    assert samples[1] is kept
    assert samples[4].shape == (1, 3, SIDE, SIDE)
    samples.unload([1, 4])
    with pytest.raises(KeyError):
        samples[1]
    with pytest.raises(KeyError):
        samples.batch([2, 4])


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12), min_size=1, max_size=4), st.data())
def test_a_batch_holds_the_samples_it_was_asked_for(loads: list[list[int]], data: st.DataObject) -> None:
    samples, alone = _unloaded(12), _samples(12)
    for some in loads:
        samples.load(some)
    there = sorted({index for some in loads for index in some})
    indices = data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=20))
    expected = np.concatenate([alone[index] for index in indices])
    np.testing.assert_array_equal(samples.batch(indices), expected)


def test_neighbours_are_not_copied() -> None:
    samples = _samples(10)
    assert np.shares_memory(samples.batch([3, 4, 5]), samples[4])
    assert np.shares_memory(samples.batch([7]), samples[7])
    assert not np.shares_memory(samples.batch([3, 5, 4]), samples[4])
    assert not np.shares_memory(samples.batch([3, 3]), samples[3])
