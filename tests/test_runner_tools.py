"""The Gemmini imagenet runner's tools: batch runs, and the commands before and after them."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import topfive
from topfive.cards import fixtures_root, load_cards
from topfive.cli import main
from topfive.commands.run_batch import ListedPicture, Tally, chosen_lines, read_list
from topfive.errors import ImageError, TopfiveError
from topfive.images import load_profile, preprocess_batch

try:
    import cv2
except ImportError:
    cv2 = None

VAL = fixtures_root() / "pictures" / "pocket100" / "val"
LAST = "Finished batch\nTop five right: {}/{}\nTop one right: {}/{}\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("artifact_cache")


@pytest.fixture
def command(monkeypatch, capsys, cache):
    """Run `topfive ARGUMENTS`: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
        monkeypatch.delenv("TOPFIVE_CARDS", raising=False)
        monkeypatch.setattr(sys, "argv", ["topfive", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return left.value.code, out, err

    return run


def fixture_pictures(count):
    """(file, label) of the first fixture pictures."""
    lines = (VAL / "val_map.txt").read_text(encoding="utf-8").splitlines()[:count]
    return [(VAL / name, int(label)) for name, label in (line.split("\t") for line in lines)]


def labelled(folder, pictures):
    """Copy pictures into <label>/ folders and return their paths relative to `folder`."""
    names = []
    for path, label in pictures:
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / str(label) / path.name)
        names.append(f"{label}/{path.name}")
    return names


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# Batch lists


def test_a_list_skips_blank_lines_and_finds_pictures_beside_itself(tmp_path, monkeypatch):
    touched(tmp_path, "lists/7/a.png", "lists/007/b.png", "999/c.png")
    (tmp_path / "lists" / "batch.txt").write_text("\ufeff7/a.png\r\n\n  \n007/b.png  \n999/c.png", "utf-8")
    monkeypatch.chdir(tmp_path)
    found = read_list(tmp_path / "lists" / "batch.txt")
    assert [(p.line, p.label) for p in found] == [(1, 7), (2, 7), (3, 999)]
    assert [p.path.resolve() for p in found] == [
        tmp_path / "lists/7/a.png",
        tmp_path / "lists/007/b.png",
        tmp_path / "999/c.png",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cat/a.png", "'cat' is not a label"),
        ("-1/a.png", "'-1' is not a label"),
        ("a.png", "'' is not a label"),
        ("1000/a.png", "label 1000 is outside 0 to 999"),
        ("9" * 5000 + "/a.png", "is outside 0 to 999"),
        ("٣/a.png", "is not a label"),
        ("8/missing.png", "no such picture"),
        ("8/\0.png", "8/"),
    ],
    ids=["word", "negative", "none", "large", "huge", "digits", "missing", "null"],
)
def test_a_malformed_line_is_named(tmp_path, line, words):
    touched(tmp_path, "7/a.png")
    (tmp_path / "batch.txt").write_text(f"7/a.png\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ImageError) as error:
        read_list(tmp_path / "batch.txt")
    assert f"batch.txt, line 3: {line}" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\n \n", b"7/\xff.png\n", None], ids=["empty", "blank", "bytes", "no"]
)
def test_a_list_that_is_none_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "batch.txt").write_bytes(content)
    with pytest.raises(ImageError, match=r"batch\.txt: "):
        read_list(tmp_path / "batch.txt")


def lines(count, tmp_path):
    return [ListedPicture(n, tmp_path, 0) for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (None, range(1, 11)),
        ("1", range(1, 11)),
        ("4", range(4, 11)),
        ("4,-1", range(4, 11)),
        ("4,4", range(4, 5)),
        ("1,10", range(1, 11)),
        ("2, 5", range(2, 6)),
        ("8,50", range(8, 11)),
        ("10", range(10, 11)),
    ],
    ids=str,
)
def test_a_range_counts_from_one_and_includes_its_end(tmp_path, span, expected):
    assert [p.line for p in chosen_lines(lines(10, tmp_path), span, tmp_path)] == list(expected)


@pytest.mark.parametrize(
    "span", ["0", "0,4", "11", "5,4", "a", "", "1,2,3", "-1", "1,", ",3", "1.5", "1,-2", "9" * 5000]
)
def test_a_range_that_cannot_be_is_refused(tmp_path, span):
    with pytest.raises(TopfiveError, match="--range"):
        chosen_lines(lines(10, tmp_path), span, tmp_path)


@given(st.integers(1, 60), st.integers(1, 60))
def test_equal_parts_cover_a_list_once(count, size):
    pictures = [ListedPicture(n, VAL, 0) for n in range(1, count + 1)]
    parts = [chosen_lines(pictures, f"{s},{s + size - 1}", VAL) for s in range(1, count + 1, size)]
    assert [p for part in parts for p in part] == pictures


def test_tally():
    tally = Tally()
    tally.count(3, [3, 1, 2, 4, 5])
    tally.count(3, [1, 2, 4, 5, 3])
    tally.count(3, [0, 1, 2, 4, 5])
    assert tally.text() == "Top five right: 2/3\nTop one right: 1/3\n"


# Batch runs


def test_batch_blocks_are_exact_and_a_checkpoint_follows_each_hundredth_line(command, tmp_path):
    (name,) = labelled(tmp_path, fixture_pictures(1))
    (tmp_path / "batch.txt").write_text(f"{name}\n" * 205, encoding="utf-8")
    _, alone, _ = command("run", "-m", "pocket_fire", "-i", tmp_path / name)
    code, out, _ = command("run", "-m", "pocket_fire", "-i", tmp_path / "batch.txt", "-r", "98,203")
    label = int(name.split("/")[0])
    label_name = load_cards()["pocket_fire"].labels()[label]
    assert alone.endswith(f" {label_name}\n"), "this picture's top-1 must be right for the literals below"
    block = f"{alone}Expected was {label} - {label_name}\n"
    assert code == 0
    assert out == (
        block * 3
        + "Checkpoint! Processed up to line 100\nTop five right: 3/3\nTop one right: 3/3\n"
        + block * 100
        + "Checkpoint! Processed up to line 200\nTop five right: 103/103\nTop one right: 103/103\n"
        + block * 3
        + "Finished batch\nTop five right: 106/106\nTop one right: 106/106\n"
    )


def mislabelled(count):
    """Fixture pictures of which every third has another's label, so that the counts say something."""
    return [
        (path, (label + 1) % 100 if n % 3 == 2 else label)
        for n, (path, label) in enumerate(fixture_pictures(count))
    ]


def test_parts_of_a_batch_add_up_to_what_numpy_counts(command, tmp_path):
    pictures = mislabelled(14)
    (tmp_path / "batch.txt").write_text("\n\n".join(labelled(tmp_path, pictures)), encoding="utf-8")
    (tmp_path / "parts").mkdir()
    options = ["--target", "gemmini_sim", "--quant", "int8", "-i", tmp_path / "batch.txt"]
    for part, span in enumerate(["1,6", "7,12", "13"]):
        code, out, _ = command("run", "-m", "pocket_resnet", *options, "-r", span)
        assert code == 0
        (tmp_path / "parts" / f"out.{part}").write_text(out, encoding="utf-8")
    (tmp_path / "parts" / "notes.txt").write_text("no output", encoding="utf-8")

    batch = preprocess_batch([path for path, _ in pictures], load_profile("pocket64"), (64, 64))
    with topfive.open(topfive.build("pocket_resnet", target="gemmini_sim", quant="int8")) as runner:
        scores = np.concatenate([runner.run(picture[None]) for picture in batch])
    labels = np.array([label for _, label in pictures])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    top5 = int((best == labels[:, None]).any(axis=1).sum())
    top1 = int((best[:, 0] == labels).sum())
    assert 0 < top1 < 14
    assert command("postprocess", tmp_path / "parts") == (
        0,
        f"Total lines processed 14\nTop five right: {top5}/14\nTop one right: {top1}/14\n",
        "",
    )
    _, out, _ = command("postprocess", tmp_path / "parts", "--json")
    assert json.loads(out) == {"files": 3, "total": 14, "top5_right": top5, "top1_right": top1}
    _, out, _ = command("run", "-m", "pocket_resnet", *options, "--json")
    found = json.loads(out)
    assert (found["total"], found["top5_right"], found["top1_right"]) == (14, top5, top1)
    assert [row["top5"][0][0] for row in found["images"]] == best[:, 0].tolist()
    assert [row["label"] for row in found["images"]] == labels.tolist()


def background_model(folder, last="Flatten"):
    """A card of four classes and a background class, whose output is always 0, 1, 2, 5, 4 (before `last`)."""
    kinds, names = (["Flatten"], "cy") if last == "Flatten" else (["Flatten", last], "cfy")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"]),
            *(helper.make_node(kind, [names[n]], [names[n + 1]]) for n, kind in enumerate(kinds)),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 5))],
        [
            numpy_helper.from_array(np.zeros((5, 3, 4, 4), np.float32), "w"),
            numpy_helper.from_array(np.array([0, 1, 2, 5, 4], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "n.onnx")
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\n", encoding="utf-8")
    (folder / "n.toml").write_text(
        'name = "n"\ndescription = "d"\ntags = []\ntrained = false\nquantised = false\n'
        '[source]\nkind = "file"\npath = "n.onnx"\n[input]\nsize = [4, 4]\nprofile = "torchvision"\n'
        '[output]\nkind = "logits"\nclasses = 4\nbackground = true\nlabels = "file:labels.txt"\n'
        '[pictures]\nset = "pocket100"\ncount = 1\n',
        encoding="utf-8",
    )
    (name,) = labelled(folder, [(fixture_pictures(1)[0][0], 2)])
    (folder / "batch.txt").write_text(name, encoding="utf-8")
    return ["-m", "n", "--cards", folder / "n.toml", "-i", folder / "batch.txt"]


def test_a_background_class_shifts_the_output_not_the_label(command, tmp_path):
    """Output entry 1 is class 0: a model whose best entry is always 3 is right about label 2."""
    code, out, _ = command("run", *background_model(tmp_path))
    assert code == 0
    assert out == (
        "Element count 5. Top 5 classes:\n0.000000 background\n1.000000 ant\n2.000000 bee\n4.000000 dog\n"
        "5.000000 cat\nExpected was 2 - cat\n" + LAST.format(1, 1, 1, 1)
    )


def test_a_model_that_gives_nan_is_an_error_that_names_the_picture(command, tmp_path):
    code, out, err = command("run", *background_model(tmp_path, last="Acosh"))
    assert (code, out) == (2, "")
    assert f"run of n for cpu, force_float32: the output for {tmp_path / '2'}" in err
    assert "NaN" in err


BAD_RUNS = {
    "line": (["-i", "BAD"], "bad.txt, line 2: ", "is not a label"),
    "unused_line": (["-i", "BAD", "-r", "1,1"], "bad.txt, line 2: ", "is not a label"),
    "label": (["-i", "LARGE"], "large.txt, line 1: ", "outside 0 to 99"),
    "range": (["-i", "GOOD", "-r", "2,1"], "--range 2,1", "ends before it starts"),
    "no_list": (["-i", "PICTURE", "-r", "1"], "--range 1", ".txt"),
    "two": (["-i", "GOOD", "-i", "PICTURE"], "good.txt", "the only -i"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_batches_run_nothing(command, tmp_path, case, monkeypatch):
    (name,) = labelled(tmp_path, fixture_pictures(1))
    touched(tmp_path, "100/a.png")
    for file, content in {"bad": f"{name}\nx/y.png", "large": "100/a.png", "good": f"{name}\n{name}"}.items():
        (tmp_path / f"{file}.txt").write_text(content, encoding="utf-8")
    monkeypatch.setattr("topfive.build", lambda *_, **__: pytest.fail("built"))
    places = {n.upper(): tmp_path / f"{n}.txt" for n in ("bad", "large", "good")} | {
        "PICTURE": tmp_path / name
    }
    arguments, where, words = BAD_RUNS[case]
    code, out, err = command("run", "-m", "pocket_fire", *(places.get(a, a) for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("topfive: ")
    assert where in err
    assert words in err


# Postprocess


def test_postprocess_reads_only_the_last_three_lines(command, tmp_path):
    (tmp_path / "out.1").write_text("noise\n" + LAST.format(9, 10, 8, 10), encoding="utf-8")
    (tmp_path / "out.20").write_bytes(b"\xff\n" + LAST.format(1, 3, 0, 3).encode().rstrip())
    (tmp_path / "out.3").write_text(LAST.format(0, 0, 0, 0), encoding="utf-8")
    assert command("postprocess", tmp_path) == (
        0,
        "Total lines processed 13\nTop five right: 10/13\nTop one right: 8/13\n",
        "",
    )


UNFINISHED = {
    "empty": "",
    "cut": LAST.format(1, 2, 1, 2)[:-8],
    "swapped": "Finished batch\nTop one right: 1/2\nTop five right: 1/2\n",
    "after": LAST.format(1, 2, 1, 2) + "topfive: more\n",
    "checkpoint": "Checkpoint! Processed up to line 100\nTop five right: 1/2\nTop one right: 1/2\n",
    "totals": LAST.format(1, 2, 1, 3),
    "more_than_all": LAST.format(3, 2, 1, 2),
    "best_not_in_five": LAST.format(1, 2, 2, 2),
}


@pytest.mark.parametrize("content", UNFINISHED.values(), ids=UNFINISHED)
def test_postprocess_names_the_output_that_is_not_finished(command, tmp_path, content):
    (tmp_path / "out.1").write_text(LAST.format(9, 10, 8, 10), encoding="utf-8")
    (tmp_path / "out.2").write_text(content, encoding="utf-8")
    code, out, err = command("postprocess", tmp_path)
    assert (code, out) == (2, "")
    assert str(tmp_path / "out.2") in err
    assert "run this part again" in err


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_postprocess_without_outputs(command, tmp_path, folder):
    code, out, err = command("postprocess", tmp_path / folder)
    assert (code, out) == (2, "")
    assert str(tmp_path / folder) in err


# Preprocess


@pytest.fixture
def source(tmp_path):
    """Five pictures in two numbered folders."""
    random = np.random.default_rng(5)
    for name, size in {
        "3/b": (40, 90),
        "3/a": (300, 257),
        "3/c": (64, 64),
        "12/a": (256, 256),
        "12/d": (500, 260),
    }.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def listed(folder):
    text = (folder / "batch_out.txt").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.splitlines()


def test_preprocess_writes_crops_and_lists_them_in_order(command, tmp_path, source):
    out = tmp_path / "out"
    code, text, _ = command("preprocess", "--input", source, "--output", out)
    assert (code, text) == (0, f"{out / 'batch_out.txt'}: 5 pictures\n")
    names = ["3/a", "3/b", "3/c", "12/a", "12/d"]
    assert listed(out) == [str(out / f"{name}.png") for name in names]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == sorted(
        [*(f"{name}.png" for name in names), "batch_out.txt"]
    )
    assert {Image.open(path).size for path in listed(out)} == {(224, 224)}
    whole = np.array(Image.open(source / "12/a.png"))
    np.testing.assert_array_equal(np.array(Image.open(out / "12/a.png")), whole[16:240, 16:240])
    assert [p.label for p in read_list(out / "batch_out.txt")] == [3, 3, 3, 12, 12]


@pytest.mark.skipif(cv2 is None, reason="opencv is not installed (pip install topfive[opencv])")
@pytest.mark.parametrize("lossy", [False, True], ids=["png", "jpeg"])
def test_preprocess_is_the_runners_tool_bit_for_bit(command, tmp_path, source, lossy):
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        command(
            "preprocess", "--input", source, "--output", tmp_path / "out", *(["--lossy"] if lossy else [])
        )
        for path in listed(tmp_path / "out"):
            name = path.removeprefix(f"{tmp_path / 'out'}/")
            image = cv2.imread(str((source / name).with_suffix(".png")), cv2.IMREAD_COLOR)
            height, width = (side * 256 // min(image.shape[:2]) for side in image.shape[:2])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            left, top = width // 2 - 112, height // 2 - 112
            image = image[top : top + 224, left : left + 224]
            if lossy:
                assert cv2.imwrite(str(tmp_path / "expected.jpg"), image)
                expected = np.array(Image.open(tmp_path / "expected.jpg"))
            else:
                expected = image[:, :, ::-1]
            np.testing.assert_array_equal(np.array(Image.open(path)), expected)
    finally:
        cv2.ipp.setUseIPP(used)


def test_a_sample_is_seeded_and_keeps_the_order(command, tmp_path, source):
    drawn = {}
    for folder, options in {
        "a": ["--seed", "1"],
        "b": ["--seed", "1"],
        "c": ["--seed", "2"],
        "d": [],
    }.items():
        out = tmp_path / folder
        assert command("preprocess", "--input", source, "--output", out, "--sample", "3", *options)[0] == 0
        drawn[folder] = [path.removeprefix(f"{out}/") for path in listed(out)]
    order = ["3/a.png", "3/b.png", "3/c.png", "12/a.png", "12/d.png"]
    assert all(names == [n for n in order if n in names] and len(names) == 3 for names in drawn.values())
    assert drawn["a"] == drawn["b"]
    assert len({tuple(names) for names in drawn.values()}) > 1
    options = ("--input_folder", source, "--output_folder", tmp_path / "e", "--sample", "3", "--seed", "1")
    code, text, _ = command("preprocess", *options, "--json")
    assert code == 0
    assert json.loads(text) == {
        "list": str(tmp_path / "e" / "batch_out.txt"),
        "pictures": listed(tmp_path / "e"),
    }
    assert [path.removeprefix(f"{tmp_path / 'e'}/") for path in listed(tmp_path / "e")] == drawn["a"]


def test_class_folders_by_name_take_their_labels_from_a_file(command, tmp_path, source):
    (source / "3").rename(source / "n03")
    (source / "12").rename(source / "n12")
    (tmp_path / "synsets.txt").write_text("n00 a fish\nn12 another\nn03 third\n", encoding="utf-8")
    out = tmp_path / "out"
    code, _, _ = command(
        "preprocess", "--input", source, "--output", out, "--classes", tmp_path / "synsets.txt"
    )
    assert code == 0
    assert [p.label for p in read_list(out / "batch_out.txt")] == [1, 1, 2, 2, 2]


def test_preprocess_refuses_what_it_cannot_do(command, tmp_path, source):
    out = tmp_path / "out"

    def refused(*options, words):
        code, text, err = command("preprocess", "--output", out, *options)
        assert (code, text) == (2, "")
        assert re.search(words, err), err
        assert not (out / "batch_out.txt").exists()

    refused("--input", source, "--sample", "6", words="has 5 pictures")
    refused("--input", tmp_path / "nowhere", words="nowhere: no such folder")
    refused("--input", source / "3", words=r"a\.png: has no label")
    refused("--input", source, "--output", source / "more", words="is inside")
    refused("--input", source, "--classes", tmp_path / "none.txt", words=r"none\.txt: cannot be read")
    shutil.copyfile(source / "3/a.png", source / "3/a.bmp")
    refused("--input", source, words=r"a\.png: would become .*a\.png, as .*a\.bmp; rename")
    (source / "3/a.bmp").unlink()
    (source / "12/d.png").write_bytes(b"no picture")
    refused("--input", source, words=r"d\.png: is not a picture")
    assert not list(out.rglob("*.part"))
