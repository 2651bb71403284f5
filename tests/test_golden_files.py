"""Goldens: verdicts, ties, the tolerance that is said to pass, files, updates, and the text of a failure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topfive.errors import GoldenError
from topfive.golden import Golden, GoldenImage, Observed, Shown, Tolerance, compare, compare_image
from topfive.golden.comparison import required_tolerance
from topfive.golden.files import dumps, read_golden, write_golden
from topfive.golden.updating import refuse_under_ci, update
from topfive.ranking import rank
from topfive.report.mismatch import drift_text, mismatch_text

SHA = "0" * 64
HASH_A, HASH_B = "a" * 64, "b" * 64
PATH = Path("golden/net/cpu-int8.json")
NO_CI: dict[str, str] = {}
USUAL = Tolerance()


def image_of(scores, *, int8=(), file="a.jpg", sha256=SHA):
    return GoldenImage(file, sha256, tuple(rank(np.asarray(scores, np.float32), (), 5)), tuple(int8))


def seen_of(scores, *, int8=(), file="a.jpg", sha256=SHA, label=None):
    return Observed(Shown(file, sha256, label), np.asarray(scores, np.float32), tuple(int8))


def golden_of(*images, tolerance=USUAL, exact=()):
    return Golden("net", "cpu", "int8", SHA, "pocket64", "probability", tolerance, images, tuple(exact), 0.5)


def judge(before, after, tolerance=USUAL):
    image = image_of(before)
    return compare_image(image, seen_of(after), (), golden_of(image, tolerance=tolerance))


SCORES = [0.5, 0.2, 0.1, 0.06, 0.04, 0.02, 0.01]
FLOATS = st.floats(-1e3, 1e3, width=32, allow_nan=False)
VECTORS = st.lists(FLOATS, min_size=2, max_size=12)


@given(VECTORS)
def test_a_golden_compared_with_itself_is_exact(scores):
    found = judge(scores, scores)
    assert found.verdict == "exact"
    assert found.max_error == 0


@given(VECTORS, st.floats(0, 0.99), st.floats(0.01, 0.2))
def test_scores_moved_by_less_than_the_tolerance_drift_at_most(scores, part, relative):
    tolerance = Tolerance(relative, 1e-6)
    moved = np.asarray(scores, np.float32) * np.float32(1 + part * relative)
    assert judge(scores, moved, tolerance).verdict in ("exact", "drift")


@given(st.integers(0, 4), st.floats(1.05, 1.5), st.booleans())
def test_a_score_moved_by_more_than_the_tolerance_fails(place, factor, up):
    moved = list(SCORES)
    moved[place] *= 1 + 0.01 * factor if up else 1 - 0.01 * factor
    assert judge(SCORES, moved).verdict == "fail"


@pytest.mark.parametrize("place", range(4))
def test_swap_of_a_tie_passes_and_of_a_difference_fails(place):
    tied = list(SCORES)
    tied[place + 1] = tied[place] * 0.995
    swapped = list(tied)
    swapped[place], swapped[place + 1] = tied[place + 1], tied[place]
    assert judge(tied, swapped).verdict == "drift"
    apart = list(SCORES)
    swapped = list(apart)
    swapped[place], swapped[place + 1] = apart[place + 1], apart[place]
    assert judge(apart, swapped).verdict == "fail"


def test_classes_that_meet_in_the_middle_are_no_tie():
    # Each score moves by less than the tolerance, but the golden's scores differ by more.
    before = [0.5, 0.2, 0.197, 0.06, 0.02]
    after = [0.5, 0.1981, 0.1984, 0.06, 0.02]
    assert judge(before, after, Tolerance(0.01, 0)).verdict == "fail"
    assert judge(before, after, Tolerance(0.016, 0)).verdict == "drift"


def test_edge_of_the_five():
    # Class 5 comes in for class 4.
    tied = [*SCORES[:4], 0.04, 0.0398, 0.01]
    assert judge(tied, [*SCORES[:4], 0.0399, 0.04, 0.01]).verdict == "drift"
    # It comes in although the fifth score was much lower: the golden did not know it.
    assert judge(SCORES, [*SCORES[:4], 0.04, 0.05, 0.01]).verdict == "fail"
    # A newcomer that passes a class which it does not tie with fails, even when it ties with the fifth.
    assert judge(tied, [0.5, 0.2, 0.1, 0.0399, 0.0401, 0.0402, 0.01]).verdict == "fail"


def test_fewer_than_five_classes():
    assert judge([0.9, 0.1], [0.9, 0.1]).verdict == "exact"
    assert judge([0.9, 0.1], [0.1, 0.9]).verdict == "fail"


@given(VECTORS, st.data())
def test_the_required_tolerance_passes_and_is_needed(scores, data):
    after = data.draw(st.lists(FLOATS, min_size=len(scores), max_size=len(scores)))
    image = image_of(scores)
    found = judge(scores, after)
    needed = required_tolerance([found], Tolerance())
    assert needed is not None
    assert compare_image(image, seen_of(after), (), golden_of(image, tolerance=needed)).verdict != "fail"
    # Relative to its own size any score could be anything: then an absolute tolerance is named.
    assert needed.relative < 1.02
    if found.verdict != "fail":
        assert needed == Tolerance()
        return
    assert needed.relative > Tolerance().relative or needed.absolute > Tolerance().absolute
    # Rounded up to three digits, so two per cent less does not do.
    smaller = Tolerance(
        max(Tolerance().relative, needed.relative * 0.98), max(Tolerance().absolute, needed.absolute * 0.98)
    )
    assert compare_image(image, seen_of(after), (), golden_of(image, tolerance=smaller)).verdict == "fail"


@given(VECTORS, st.data())
def test_verdicts_only_improve_with_the_tolerance(scores, data):
    after = data.draw(st.lists(FLOATS, min_size=len(scores), max_size=len(scores)))
    order = ["exact", "drift", "fail"]
    steps = [
        judge(scores, after, Tolerance(r, a)).verdict for r, a in ((0, 0), (0.01, 1e-6), (0.5, 1), (1, 1e4))
    ]
    assert [order.index(v) for v in steps] == sorted((order.index(v) for v in steps), reverse=True)


@pytest.mark.parametrize(
    "after", [[np.nan, 1, 0], [0.5, np.nan, 0], [np.inf, 1, 0]], ids=["first", "second", "inf"]
)
def test_nan_and_infinity_fail_and_no_tolerance_helps(after):
    found = judge([0.7, 0.2, 0.1], after)
    assert found.verdict == "fail"
    assert required_tolerance([found], Tolerance()) is None


def test_a_changed_int8_hash_fails_whatever_the_scores():
    image = image_of(SCORES, int8=[HASH_A])
    golden = golden_of(image, exact=["layer/out"], tolerance=Tolerance(1, 1))
    same = compare_image(image, seen_of(SCORES, int8=[HASH_A]), (), golden)
    other = compare_image(image, seen_of(SCORES, int8=[HASH_B]), (), golden)
    none = compare_image(image, seen_of(SCORES), (), golden)
    assert [same.verdict, other.verdict, none.verdict] == ["exact", "fail", "fail"]
    assert "layer/out" in other.faults[0]
    assert required_tolerance([other], golden.tolerance) is None


def test_a_class_beyond_the_output_fails():
    image = image_of(SCORES)
    assert compare_image(image, seen_of([0.9, 0.1]), (), golden_of(image)).verdict == "fail"


def test_overall_verdict_is_the_worst():
    images = [image_of(SCORES, file=name) for name in ("a", "b")]
    drifted = [s * 1.001 for s in SCORES]
    found = compare(golden_of(*images), [seen_of(SCORES, file="a"), seen_of(drifted, file="b")], (), PATH)
    assert found.verdict == "drift"
    assert "1 of 2 pictures drift" in drift_text(found)
    assert drift_text(compare(golden_of(images[0]), [seen_of(SCORES, file="a")], (), PATH)) == ""


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([], "names picture 'a.jpg', which the set lacks"),
        ([seen_of(SCORES, sha256="1" * 64)], "is not the one the golden was made of"),
        ([seen_of(SCORES), seen_of(SCORES, file="z.jpg")], "lacks picture 'z.jpg'"),
    ],
    ids=["missing", "changed", "new"],
)
def test_pictures_that_are_not_the_goldens(seen, words):
    with pytest.raises(GoldenError) as caught:
        compare(golden_of(image_of(SCORES)), seen, (), PATH)
    assert words in caught.value.message
    assert str(PATH) in caught.value.message
    assert "--update-golden" in caught.value.message


# Files


@given(st.lists(VECTORS, min_size=1, max_size=4))
def test_a_file_gives_back_what_was_written_bit_by_bit(tmp_path_factory, vectors):
    images = tuple(image_of(v, file=f"{n}.jpg", int8=[HASH_A]) for n, v in enumerate(vectors))
    golden = golden_of(*images, exact=["out"])
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    write_golden(golden, path)
    assert read_golden(path) == golden


def test_a_picture_is_one_line():
    text = dumps(golden_of(image_of(SCORES, file="a"), image_of(SCORES, file="b")))
    lines = [line for line in text.splitlines() if '"file"' in line]
    assert len(lines) == 2
    assert '[0, "", 0.5]' in lines[0]
    assert max(map(len, text.splitlines())) < 300


def damaged(change):
    stored = json.loads(dumps(golden_of(image_of(SCORES, int8=[HASH_A]), exact=["out"])))
    change(stored)
    return json.dumps(stored)


def set_score(stored, value):
    stored["images"][0]["top5"][0][2] = value


MALFORMED = {
    "empty": lambda: "",
    "cut": lambda: damaged(lambda s: None)[:100],
    "a_list": lambda: "[]",
    "deep": lambda: "[" * 100_000,
    "format": lambda: damaged(lambda s: s.update(format=99)),
    "no_images": lambda: damaged(lambda s: s.update(images=[])),
    "no_tolerance": lambda: damaged(lambda s: s.pop("tolerance")),
    "negative_tolerance": lambda: damaged(lambda s: s["tolerance"].update(relative=-1)),
    "nan_score": lambda: damaged(lambda s: set_score(s, float("nan"))),
    "text_score": lambda: damaged(lambda s: set_score(s, "0.5")),
    "order": lambda: damaged(lambda s: s["images"][0]["top5"].reverse()),
    "six": lambda: damaged(lambda s: s["images"][0]["top5"].append([9, "", 0.0])),
    "twice": lambda: damaged(lambda s: s["images"].append(s["images"][0])),
    "no_hash": lambda: damaged(lambda s: s["images"][0].pop("int8")),
    "short_sha": lambda: damaged(lambda s: s["images"][0].update(sha256="12")),
    "top1": lambda: damaged(lambda s: s.update(top1=98.5)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_what_to_do(case, tmp_path):
    path = tmp_path / "cpu-int8.json"
    path.write_text(MALFORMED[case](), encoding="utf-8")
    with pytest.raises(GoldenError) as caught:
        read_golden(path)
    first = str(caught.value).splitlines()[0]
    assert str(path) in first
    assert "--update-golden" in first


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(GoldenError, match=r"is missing: run pytest --update-golden"):
        read_golden(tmp_path / "cpu-int8.json")


# Updates


def stored(tmp_path, golden):
    path = tmp_path / "net" / "cpu-int8.json"
    write_golden(golden, path)
    return path


def test_update_writes_a_new_file(tmp_path):
    path = tmp_path / "net" / "cpu-int8.json"
    done = update(path, golden_of(image_of(SCORES)), [seen_of(SCORES)], NO_CI)
    assert done.written
    assert "new, 1 pictures" in done.text
    assert read_golden(path) == golden_of(image_of(SCORES))


def test_update_leaves_a_file_alone_when_only_noise_and_provenance_changed(tmp_path):
    path = stored(tmp_path, golden_of(image_of(SCORES)))
    before = path.read_bytes()
    noisy = [s * (1 + 1e-6) for s in SCORES]
    fresh = replace(golden_of(image_of(noisy)), versions={"numpy": "99"}, artifact="other", decoder="other")
    assert not update(path, fresh, [seen_of(noisy)], NO_CI).written
    assert path.read_bytes() == before


def test_update_rewrites_only_the_pictures_that_changed_and_keeps_the_tolerance(tmp_path):
    kept = Tolerance(0.03, 1e-3)
    path = stored(tmp_path, golden_of(image_of(SCORES, file="a"), image_of(SCORES, file="b"), tolerance=kept))
    before = path.read_text().splitlines()
    noisy, moved = [s * (1 + 1e-6) for s in SCORES], [s * 1.2 for s in SCORES]
    fresh = golden_of(image_of(noisy, file="a"), image_of(moved, file="b"))
    done = update(path, fresh, [seen_of(noisy, file="a"), seen_of(moved, file="b")], NO_CI)
    after = path.read_text().splitlines()
    assert [line for line, old in zip(after, before, strict=True) if line != old] == [
        line for line in after if '"file": "b"' in line
    ]
    assert done.written
    assert "b: [0 0.5" in done.text
    assert read_golden(path).tolerance == kept


def test_update_tells_pictures_that_came_and_went_and_a_new_model_file(tmp_path):
    path = stored(tmp_path, golden_of(image_of(SCORES, file="a"), image_of(SCORES, file="gone")))
    fresh = replace(golden_of(image_of(SCORES, file="a"), image_of(SCORES, file="new")), source_sha256=HASH_A)
    done = update(path, fresh, [seen_of(SCORES, file="a"), seen_of(SCORES, file="new")], NO_CI)
    for words in ("source_sha256", "new: none ->", "gone: removed"):
        assert words in done.text
    assert read_golden(path) == fresh


def test_update_replaces_a_malformed_file(tmp_path):
    path = tmp_path / "cpu-int8.json"
    path.write_text("{")
    done = update(path, golden_of(image_of(SCORES)), [seen_of(SCORES)], NO_CI)
    assert "malformed" in done.text
    assert read_golden(path) == golden_of(image_of(SCORES))


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_update_refuses_under_ci(tmp_path, value):
    path = stored(tmp_path, golden_of(image_of(SCORES)))
    before = path.read_bytes()
    with pytest.raises(GoldenError, match="refused under CI"):
        update(path, golden_of(image_of([s * 2 for s in SCORES])), [seen_of(SCORES)], {"CI": value})
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_ci_can_be_switched_off(value):
    refuse_under_ci({"CI": value})


# The text of a failure


def test_a_failure_shows_both_sides_the_tolerance_and_the_command():
    labels = [f"label {n}" for n in range(7)]
    image = GoldenImage("a.jpg", SHA, tuple(rank(np.asarray(SCORES, np.float32), labels, 5)))
    after = [0.2, 0.52, *SCORES[2:]]
    found = compare(golden_of(image), [seen_of(after)], labels, PATH, ("numpy is 2, golden 1",))
    text = mismatch_text(found, str(PATH), first_divergence="first diverging layer: conv1", repeat="pytest x")
    lines = text.splitlines()
    assert lines[0] == "net on cpu, int8: 1 of 1 pictures differ from golden/net/cpu-int8.json"
    sides = next(line for line in lines if line.startswith("!"))
    assert "label 0" in sides
    assert "label 1" in sides
    columns = {line.index("label", 30) for line in lines if line.count("label ") == 2}
    assert len(columns) == 1
    for words in ("numpy is 2", "cosine", "max error 0.32", "conv1", "repeat with: pytest x"):
        assert words in text
    needed = found.required()
    assert needed is not None
    assert f'"relative": {needed.relative!r}' in text or f'"absolute": {needed.absolute!r}' in text
    again = compare(replace(golden_of(image), tolerance=needed), [seen_of(after)], labels, PATH)
    assert again.verdict != "fail"


def test_a_failure_of_many_pictures_stays_short():
    images = [image_of(SCORES, file=f"{n}.jpg") for n in range(50)]
    seen = [seen_of([s * 2 for s in SCORES], file=f"{n}.jpg") for n in range(50)]
    text = mismatch_text(compare(golden_of(*images), seen, (), PATH), "x", first_divergence="", repeat="y")
    assert "and 47 more" in text
    assert len(text.splitlines()) < 50


@given(VECTORS, st.data())
def test_a_failures_text_can_always_be_made(scores, data):
    after = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=12))
    image = image_of(scores)
    found = compare(golden_of(image), [seen_of(after)], (), PATH)
    assume(found.verdict == "fail")
    assert "tolerance that passes" in mismatch_text(found, "x", first_divergence="", repeat="y")
