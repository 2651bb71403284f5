"""The parts of a sweep: statistics, ranking, shards, plans, merging, comparing, progress."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topfive.cards import Published, load_cards
from topfive.errors import RecordError, SweepError
from topfive.ranking import rank
from topfive.records import SweepRecord, previous_sweep, read_sweep, write_sweep
from topfive.records.arrays import pack_array, unpack_array
from topfive.report.accuracy import accuracy_json, accuracy_notes, accuracy_table
from topfive.sweep.compare import agreement, change_since, shift_that_fits, summarise
from topfive.sweep.merge import join_shards, merge_sweep, wall_seconds
from topfive.sweep.plan import Plan, check_labels, shard_count, shard_range, version_differences
from topfive.sweep.progress import Progress
from topfive.sweep.shards import best_classes, read_shard, shard_file, write_shard
from topfive.sweep.state import SweepState, forget_sweeps, held
from topfive.sweep.statistics import Proportion, mcnemar

from sweeps import PLAN, listing, record, result, whole

# Statistics

counts = st.tuples(st.integers(0, 60_000), st.integers(1, 60_000)).filter(lambda pair: pair[0] <= pair[1])


@given(counts)
def test_wilson_solves_its_equation(pair):
    """Both ends satisfy (p - right/n)^2 = z^2 p (1 - p) / n, and enclose the proportion."""
    right, total = pair
    low, high = Proportion(right, total).interval()
    assert 0 <= low <= right / total <= high <= 1
    z = 1.959963984540054
    for end, other in ((low, 0), (high, 1)):
        if end != other:
            assert math.isclose(
                (end - right / total) ** 2, z * z * end * (1 - end) / total, rel_tol=1e-6, abs_tol=1e-15
            )


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Newcombe 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(right, total, low, high):
    assert [round(end, 4) for end in Proportion(right, total).interval()] == [low, high]


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_mid_p(lost, gained):
    n, k = lost + gained, min(lost, gained)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    exact = Fraction(2 * tail - math.comb(n, k), 2**n) if n else Fraction(1)
    assert math.isclose(mcnemar(lost, gained), float(exact), rel_tol=1e-12)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@given(st.integers(900, 1100), st.integers(0, 1100))
def test_mcnemar_of_many_pairs_is_the_same_sum(lost, gained):
    n, k = lost + gained, min(lost, gained)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    exact = Fraction(2 * tail - math.comb(n, k), 2**n)
    assert math.isclose(mcnemar(lost, gained), float(exact), rel_tol=1e-9)


def test_mcnemar_known_values():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(7, 7) == 1.0
    assert mcnemar(0, 5) == 2 * (1 / 32) - 1 / 32  # one of 32, both sides, less half of each
    assert math.isclose(mcnemar(1, 8), (2 * (1 + 9) - 9) / 512)


# Ranking

scores = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 12)),
    elements=st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -np.inf, np.inf]),
        st.floats(-4, 4, width=16),
    ),
)


@given(scores, st.booleans())
def test_best_classes_are_those_of_rank(vectors, background):
    found = best_classes(vectors, background)
    for row, vector in zip(found, vectors, strict=True):
        wanted = [index - background for index, _, _ in rank(vector, (), 5)]
        assert row.tolist() == [*wanted, *[-1] * (5 - len(wanted))]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int32])
def test_equal_scores_go_by_index_in_every_dtype(dtype):
    vectors = np.array([[3, 7, 7, 1, 7, 3], [0, 0, 0, 0, 0, 0]], dtype)
    assert best_classes(vectors, False).tolist() == [[1, 2, 4, 0, 5], [0, 1, 2, 3, 4]]


def test_a_nan_is_no_score():
    with pytest.raises(ValueError, match=r"row 1 holds a NaN"):
        best_classes(np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32), False)


# Packed arrays


@given(
    st.one_of(
        arrays.arrays(np.int32, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0)),
        arrays.arrays(np.int64, arrays.array_shapes(min_dims=1, max_dims=2, min_side=0)),
        arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=2, min_side=0)),
    )
)
def test_arrays_survive_json(array):
    found = unpack_array(json.loads(json.dumps(pack_array(array))))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "<f4"},
        {"shape": [4]},
        {"shape": [-3]},
        {"shape": [1 << 40]},
        {"zlib": "eJw="},
        {"zlib": "!"},
        {"zlib": None},
    ],
    ids=["dtype", "longer", "negative", "huge", "cut", "base64", "none"],
)
def test_what_is_no_packed_array(change):
    with pytest.raises(ValueError, match=r"not a packed array|is refused"):
        unpack_array({**pack_array(np.arange(3, dtype=np.int32)), **change})


def test_a_bomb_is_not_unpacked():
    stored = pack_array(np.zeros(10_000_000, np.uint8))
    with pytest.raises(ValueError, match="not a packed array"):
        unpack_array({**stored, "shape": [10]})


# Shards


@given(st.integers(1, 5000), st.data())
def test_shards_cover_every_picture_once(pictures, data):
    shards = data.draw(st.integers(1, pictures))
    ranges = [shard_range(pictures, shards, number) for number in range(shards)]
    assert [n for r in ranges for n in r] == list(range(pictures))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize(
    ("pictures", "shards"), [(1, 1), (5, 5), (500, 8), (4000, 8), (4001, 9), (50_000, 100)]
)
def test_shards_by_default(pictures, shards):
    assert shard_count(pictures) == shards


def test_more_shards_than_pictures():
    assert shard_count(10, 10) == 10
    with pytest.raises(SweepError, match="11 shards of 10 pictures: choose 1 to 10"):
        shard_count(10, 11)


def test_a_result_survives_its_file(tmp_path):
    shard = result(3, [5, 9], [[1, 2, 3, 4, 5], [7, 1, 8, 9, 0]])
    write_shard(tmp_path, shard)
    found = read_shard(shard_file(tmp_path, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00003.json"]
    for name in ("indices", "labels", "top5", "sha256", "stamps"):
        assert np.array_equal(getattr(found, name), getattr(shard, name))
    assert (found.right1, found.right5) == (1, 2)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"plan": "id", "number": 0}'], ids=["empty", "nothing", "list", "half"]
)
def test_what_is_no_result_is_named(tmp_path, text):
    path = shard_file(tmp_path, 0)
    path.write_text(text)
    with pytest.raises(SweepError, match=r"shard-00000\.json is not a shard's result"):
        read_shard(path)


# Plans and states


def test_a_plan_survives_json():
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN
    with pytest.raises(SweepError, match="format 2, this version reads 1"):
        Plan.from_json({**PLAN.to_json(), "format": 2})
    with pytest.raises(SweepError, match="not a sweep's plan"):
        Plan.from_json({"format": 1})


def test_going_on_with_other_data_is_refused(tmp_path):
    SweepState.open(tmp_path, PLAN, listing())
    assert SweepState.open(tmp_path, PLAN, listing()).plan == PLAN
    with pytest.raises(
        SweepError, match=r"decoder was x, is y\): restore it and run the same command, or .*--restart"
    ) as found:
        SweepState.open(tmp_path, replace(PLAN, made_by=(("decoder", "y"),)), listing())
    changed = replace(PLAN, pictures_sha256="q", missing=("9.jpg",))
    with pytest.raises(
        SweepError, match=r"1 line of the list, the first was '2 2.jpg 1' and is '2 2.jpg 7'"
    ) as found:
        SweepState.open(tmp_path, changed, listing((1, 1, 7, 1)))
    assert "missing was" in found.value.details
    forget_sweeps(tmp_path, [("m", "cpu", "int8")], "/elsewhere")
    with pytest.raises(SweepError):
        SweepState.open(tmp_path, changed, listing((1, 1, 7, 1)))
    forget_sweeps(tmp_path, [("m", "cpu", "int8")], "/d")
    assert SweepState.open(tmp_path, changed, listing((1, 1, 7, 1))).plan == changed


def test_one_command_at_a_time(tmp_path):
    with held(tmp_path, [("m", "cpu", "int8")], "d"):
        with held(tmp_path, [("m", "cpu", "int8")], "other"), held(tmp_path, [("n", "cpu", "int8")], "d"):
            pass
        with (
            pytest.raises(SweepError, match="another command sweeps m-cpu-int8 over d already"),
            held(tmp_path, [("m", "cpu", "int8")], "d"),
        ):
            pass
    with held(tmp_path, [("m", "cpu", "int8")], "d"):
        pass


def test_versions_that_differ_are_named():
    plan = replace(PLAN, made_by=(("decoder", "pillow 0"), ("numpy", np.__version__), ("nosuchthing", "1")))
    decoder, other = version_differences(plan)
    assert decoder.endswith("the sweep began with pillow 0")
    assert other == "nosuchthing is not installed, the sweep began with 1"


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ((0, 99, 100), {}, r"2.jpg has class 100, but pocket_fire has 100 classes$"),
        ((1, 99, 100), {}, r"no picture has class 0, so the labels count from 1"),
        ((0, 1), {"classes": 1000}, "pocket_fire has 100 classes, data set 'd' has 1000"),
    ],
    ids=["beyond", "from-1", "another-set"],
)
def test_labels_that_are_not_the_models(labels, options, message):
    with pytest.raises(SweepError, match=message):
        check_labels(load_cards()["pocket_fire"], replace(listing(labels), **options))


# Merging


def test_shards_are_merged_in_order():
    joined = join_shards(PLAN, list(reversed(whole())))
    assert joined["indices"].tolist() == [0, 1, 2, 3]
    assert joined["top5"][:, 0].tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (lambda a, b: [a, a], "has shard 0 twice"),
        (lambda a, b: [b], "does not fit its plan of 2 shards: see 0"),
        (lambda a, b: [a, replace(b, number=2)], "does not fit its plan of 2 shards: see 1"),
        (lambda a, b: [a, result(1, [3])], "shard 1 of m-cpu-int8 has 1 picture,"),
        (lambda a, b: [a, result(1, [1, 2])], "has picture 1 twice or out of order"),
        (lambda a, b: [result(0, [2, 3]), result(1, [0, 1])], "has picture 0 twice or out of order"),
    ],
    ids=["twice", "gap", "stranger", "short", "overlap", "order"],
)
def test_duplicates_and_gaps_are_refused(shards, message):
    with pytest.raises(SweepError, match=message):
        join_shards(PLAN, shards(*whole()))


def test_merging_what_is_on_disk(tmp_path):
    state = SweepState.open(tmp_path, PLAN, listing())
    first, second = (replace(shard, plan=state.id) for shard in whole())
    state.write(second)
    with pytest.raises(
        SweepError, match=r"lacks 1 of 2 shards \(the first is 0\): run the same command again"
    ):
        merge_sweep(state, machine={}, command="")
    state.write(replace(first, plan="of another"))
    with pytest.raises(SweepError, match="is shard 0 of another sweep"):
        merge_sweep(state, machine={}, command="")
    state.write(first)
    record = merge_sweep(state, machine={"host": "h"}, command="c")
    assert (record.pictures, int(record.right1.sum()), int(record.right5.sum())) == (4, 3, 4)
    assert (record.timing["wall"], record.timing["run"], record.timing["workers"]) == (10.0, 2.0, 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=10))
def test_wall_time_is_the_length_of_the_union(spans):
    abouts = [{"started": start, "ended": start + length, "share": 1.0} for start, length in spans]
    seconds = {second for start, length in spans for second in range(start, start + length)}
    assert math.isclose(wall_seconds(abouts), len(seconds))


def test_wall_time_is_shared_by_the_cases_of_a_pass():
    abouts = [{"started": 0.0, "ended": 4.0, "share": 0.25}, {"started": 10.0, "ended": 14.0, "share": 0.25}]
    assert wall_seconds(abouts) == 2.0


# Records and comparisons


def test_a_record_survives_its_file(tmp_path):
    stored = record([1, 2, 1])
    path = write_sweep(tmp_path, stored)
    found = read_sweep(path)
    assert found.to_json() == stored.to_json()
    assert json.loads(path.read_text())["sweep"]["accuracy"] == {"pictures": 3, "right1": 2, "right5": 2}
    write_sweep(tmp_path, stored)
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match="of format 7; this version reads 1"):
        SweepRecord.from_json({**stored.to_json(), "format": 7})
    with pytest.raises(ValueError, match="not a record of a sweep"):
        SweepRecord.from_json({**stored.to_json(), "plan": {}})
    path.write_text("{}")
    with pytest.raises(RecordError, match=path.name):
        read_sweep(path)


def test_the_record_before_is_the_newest_of_the_same_set(tmp_path):
    for identity, created, changes in (
        ("a", "2026-01-01T00:00:00+00:00", {}),
        ("b", "2026-01-01T12:00:00+00:00", {}),
        ("c", "2026-01-01T13:00:00+00:00", {"root": "/elsewhere"}),
        ("d", "2026-01-01T14:00:00+00:00", {"quant": "as_is"}),
    ):
        write_sweep(tmp_path, record([1], identity=identity, created=created, **changes))
    now = record([1])
    write_sweep(tmp_path, now)
    assert previous_sweep(tmp_path, now).id == "b"
    assert previous_sweep(tmp_path, now, ("m", "cpu", "as_is")).id == "d"
    assert previous_sweep(tmp_path, now, ("m", "gemmini_sim", "int8")) is None


def test_a_change_is_paired_picture_by_picture():
    change = change_since(record([1, 1, 2, 1, 3], identity="then"), record([1, 2, 1, 3, 4]))
    assert (change.paired, change.lost, change.gained, change.moved) == (5, 2, 1, (1, 2, 3, 4))
    assert change.verdict == "changed"
    assert change_since(record([1, 1]), record([1, 1])).verdict == "same"
    worse = change_since(record([1] * 40), record([1] * 30 + [2] * 10))
    assert (worse.verdict, worse.probability) == ("worse", 2**-10)
    assert change_since(record([1] * 30 + [2] * 10), record([1] * 40)).verdict == "changed"


def test_only_pictures_that_are_the_same_are_paired():
    before, now = record([1, 1, 1, 1]), record([2, 2, 2, 2])
    digests = before.digests.copy()
    digests[2] += 1
    labels = before.labels.copy()
    labels[0] = 9
    change = change_since(replace(before, digests=digests, labels=labels), now)
    assert (change.paired, change.moved) == (2, (1, 3))
    assert change_since(replace(before, digests=before.digests + 1), now) is None


def test_a_longer_sweep_is_compared_on_what_both_have():
    assert change_since(record([1, 1]), record([1, 2, 3, 4])).paired == 2
    assert agreement(record([1, 1]), record([1, 2, 3, 4])) == 0.5


@given(st.sampled_from([-1, 0, 1]), st.floats(0.3, 1.0), st.integers(100, 400))
def test_labels_off_by_one_are_seen(shift, accuracy, count):
    rng = np.random.default_rng(count)
    truth = rng.integers(1, 99, count)
    guess = np.where(rng.random(count) < accuracy, truth, (truth + 50) % 99)
    assume((guess == truth).mean() > 0.25)
    found, top1 = shift_that_fits(record(guess, truth - shift), Published(top1=accuracy))
    assert found == shift
    assert top1 == (guess == truth).mean()


def test_a_bad_model_is_not_a_wrong_offset():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, 500)
    assert shift_that_fits(record(rng.integers(0, 100, 500), truth), Published(top1=0.8))[0] == 0
    half = np.where(np.arange(500) % 2, truth, truth + 1)  # as good shifted as not: no reason to speak
    assert shift_that_fits(record(half, truth), Published(top1=0.8))[0] == 0


def test_the_table_and_its_notes():
    before = record([1] * 40, identity="then", created="2026-01-01T00:00:00+00:00")
    now = record([1] * 30 + [2] * 10, simulated="made up", missing=("9.jpg",))
    published = Published(top1=0.98, top5=1.0, images="my pictures")
    summary = summarise(now, published, before=before, float32=before)
    assert summary.failed
    table, notes = accuracy_table([summary]), "\n".join(accuracy_notes([summary], {30: "p.jpg"}))
    (row,) = table.splitlines()[1:]
    wanted = "m cpu~ int8 40 75.00 59.81-85.81 75.00 59.81-85.81 75.00 98.00! 100.00 10/0 0.00098 "
    assert " ".join(row.split()).startswith(wanted)
    assert (
        "worse since 2026-01-01T00:00:00+00:00: the best class moved for 10 of 40 pictures: p.jpg, #31"
        in notes
    )
    assert "~ cpu is simulated: made up" in notes
    assert "published: m on my pictures" in notes
    assert "! the published figure is outside the 95 % interval" in notes
    assert "1 picture of the list is missing and left out: 9.jpg" in notes
    shown = json.loads(json.dumps(accuracy_json(summary)))
    assert shown["top1"]["fraction"] == 0.75
    assert shown["before"]["verdict"] == "worse"


@pytest.mark.parametrize(
    ("first_label", "labels", "message"),
    [
        (0, 2, "the list counts from 1 (--first-label 1), or the model has no background class, though"),
        (1, 2, "labels -1: the model has no background class, though its card says so"),
        (0, 0, "labels +1: the model has a background class that its card does not state"),
        (1, 0, "the list counts from 0 (--first-label 0), or the model has a background class"),
    ],
    ids=["list-from-1", "card-background", "model-background", "list-from-0"],
)
def test_a_wrong_offset_is_said(first_label, labels, message):
    now = record([1] * 40, [labels] * 40, first_label=first_label)
    summary = summarise(now, Published(top1=0.9), before=None, float32=None)
    assert summary.failed
    assert message in "\n".join(accuracy_notes([summary]))
    assert "top-1 is 0.00 %, but 100.00 %" in "\n".join(accuracy_notes([summary]))


# Progress


def test_progress_in_one_line():
    lines, now = [], [0.0]
    progress = Progress({"a": 1000}, lines.append, every=5, clock=lambda: now[0])
    progress.add("a", 500, 250, new=False)
    now[0] = 1.0
    progress.add("a", 100, 50)
    progress.tell()
    assert lines == []
    now[0] = 5.0
    progress.tell()
    assert lines == ["600/1,000 images, 20 images/s, 0:20 left, top-1 50.00 %"]
    now[0] = 5.5
    progress.add("a", 400, 400)
    progress.tell()  # the end is always said
    assert lines[1:] == ["1,000/1,000 images, 91 images/s, 0:00 left, top-1 70.00 %"]


def test_progress_of_many_cases():
    progress = Progress(dict.fromkeys("abcdef", 100), print, clock=lambda: 1.0)
    assert progress.text() == "0/600 images, 0 images/s, ? left, top-1 "
    for name in "abcdef":
        progress.add(name, 50, 25)
    assert progress.text().endswith("c 50.00 %, d 50.00 %, e 50.00 %, f 50.00 %, ...")
    progress.expect("g", 7200 * 3600)
    assert progress.tallies["g"].total == 7200 * 3600
