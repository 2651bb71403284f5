"""`topfive sweep` in one process: what it runs, prints, keeps and refuses."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from topfive import cli
from topfive.cards import fixtures_root, load_cards
from topfive.images import load_profile, preprocess, procedural
from topfive.records import read_sweep

from sweeps import magicmind_accuracy, mlperf_accuracy


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep_cache")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    procedural.write_flat(folder, 30, split="sweep command tests")
    return folder


@pytest.fixture
def sweep(cache, drawn, tmp_path, monkeypatch, capsys):
    """A function that runs `topfive sweep` over the drawn pictures: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
    monkeypatch.setenv("TOPFIVE_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("TOPFIVE_DATASETS", str(tmp_path / "registry"))

    def run(*arguments, pictures=drawn):
        given = ("--imagenet", pictures) if pictures else ()
        line = ["topfive", "sweep", *map(str, arguments), *map(str, given), "--workers", "1"]
        monkeypatch.setattr("sys.argv", line)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def kept(tmp_path, case="pocket_fire/cpu-int8"):
    return [read_sweep(path) for path in sorted((tmp_path / "records/sweeps" / case).iterdir())]


def test_many_cases_in_one_pass(sweep, tmp_path):
    code, out, _ = sweep("pocket_fire", "pocket_mob*", "--targets", "cpu,gemmini_sim", "--json")
    assert code == 0
    rows = json.loads(out)
    cases = {(row["model"], row["target"], row["quant"]) for row in rows}
    assert {("pocket_fire", "cpu", "force_float32"), ("pocket_mobilenet", "gemmini_sim", "int8")} <= cases
    assert all(row["images"] == 30 for row in rows)
    for row in rows:
        assert (row["agreement_with_float32"] is None) == (row["quant"] == "force_float32")
        assert row["top1"]["low"] <= row["top1"]["fraction"] <= row["top1"]["high"]
    # One pass: all cases of a shard were run by one process in one span of time.
    (fire,), (mobile,) = kept(tmp_path), kept(tmp_path, "pocket_mobilenet/gemmini_sim-int8")
    assert np.array_equal(fire.digests, mobile.digests)


def test_the_numbers_are_those_of_running_picture_by_picture(sweep, tmp_path, drawn):
    import topfive

    assert sweep("pocket_fire", "--quant", "int8")[0] == 0
    (record,) = kept(tmp_path)
    card = load_cards()["pocket_fire"]
    profile = load_profile(card.input.profile)
    labels = [int(line.split()[1]) for line in (drawn / "val_map.txt").read_text().splitlines()]
    with topfive.open(topfive.build("pocket_fire", target="cpu", quant="int8"), threads=1) as runner:
        for number, found in enumerate(record.top5.tolist()):
            path = drawn / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
            scores = runner.run(preprocess(path, profile, card.input.size)[None])[0]
            assert found == [index for index, _, _ in topfive.top5(scores)]
    assert record.labels.tolist() == labels


@pytest.mark.parametrize(
    "options",
    [
        ("--no-cache",),
        ("--shards", "1"),
        ("--shards", "30"),
        ("--batch", "1"),
        ("--batch", "64"),
        ("--threads", "2"),
    ],
    ids=["no-cache", "one-shard", "shard-each", "batch-1", "batch-64", "threads"],
)
def test_how_it_is_run_is_no_part_of_the_numbers(sweep, tmp_path, options):
    assert sweep("pocket_fire", "--quant", "int8")[0] == 0
    code, out, _ = sweep("pocket_fire", "--quant", "int8", "--json", *options)
    assert code == 0
    first, second = kept(tmp_path)
    assert np.array_equal(first.top5, second.top5)
    (row,) = json.loads(out)
    assert (row["before"]["verdict"], row["before"]["paired"]) == ("same", 30)


def test_a_set_that_counts_from_1_and_the_wrong_offset(sweep, tmp_path, drawn):
    folder = tmp_path / "set"
    shutil.copytree(drawn, folder)
    lines = [line.split() for line in (drawn / "val_map.txt").read_text().splitlines()]
    (folder / "val_map.txt").write_text("".join(f"{name} {int(label) + 1}\n" for name, label in lines))
    if any(label == "99" for _, label in lines):
        code, _, err = sweep("pocket_fire", "--quant", "int8", pictures=folder)
        assert code == 2
        assert "the labels count from 1: register it with --first-label 1" in err
    (folder / "topfive-dataset.toml").write_text('name = "mine"\nfirst_label = 1\nclasses = 100\n')
    code, right, _ = sweep("pocket_fire", "--quant", "int8", "--json", pictures=folder)
    assert code == 0
    code, out, _ = sweep("pocket_fire", "--quant", "int8", "--json")
    assert json.loads(out)[0]["top1"] == json.loads(right)[0]["top1"]
    (folder / "val_map.txt").write_text("".join(f"{name} {max(int(label), 1)}\n" for name, label in lines))
    code, out, _ = sweep("pocket_fire", "--quant", "int8", pictures=folder)
    assert code == 1
    assert "labels +1: the list counts from 0 (--first-label 0), or the model has a background class" in out


def test_exports(sweep, tmp_path):
    out = tmp_path / "out"
    formats = [part for name in ("magicmind", "mlperf", "csv") for part in ("--format", name)]
    code, _, _ = sweep("pocket_fire", "--quant", "int8", *formats, "--out", out)
    assert code == 0
    (record,) = kept(tmp_path)
    case = out / "pocket_fire-cpu-int8"
    right = int(record.right1.sum())
    assert mlperf_accuracy(case / "mlperf_log_accuracy.json", case / "val_map.txt", "float32") == (right, 30)
    assert magicmind_accuracy(case) == (right / 30, record.right5.mean())
    with (case / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 30
    with (out / "sweeps.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["model"], int(row["top1_right"]), row["simulated"]) == ("pocket_fire", right, "")


def test_float32_of_the_same_target_where_there_is_none_of_cpu(sweep):
    code, out, _ = sweep(
        "pocket_fire", "--targets", "tensorrt_sim", "--quant", "force_float32,int8", "--json"
    )
    assert code == 0
    agreements = {row["quant"]: row["agreement_with_float32"] for row in json.loads(out)}
    assert agreements["force_float32"] is None
    assert agreements["int8"] > 0.9


def test_a_bare_onnx_file(sweep, tmp_path):
    code, out, _ = sweep(fixtures_root() / "models/pocket_fire.onnx", "--quant", "force_float32", "--json")
    assert code == 0
    assert json.loads(out)[0]["images"] == 30


def test_a_part_of_the_set_is_compared_on_what_both_have(sweep):
    assert sweep("pocket_fire", "--quant", "int8")[0] == 0
    code, out, _ = sweep("pocket_fire", "--quant", "int8", "--count", "10", "--json")
    assert code == 0
    assert json.loads(out)[0]["before"]["paired"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pocket_fyre",), "unknown model 'pocket_fyre': did you mean pocket_fire"),
        (("pocket_fire", "--targets", "gpu"), "unknown target 'gpu'"),
        (("pocket_fire", "--quant", "int9"), "unknown quant mode 'int9'"),
        (("pocket_fire", "--format", "xml"), "unknown format 'xml'"),
        (("pocket_fire", "--engine", "ray"), "unknown engine 'ray'"),
        (("pocket_fire", "--engine", "dask"), "--engine dask and --scheduler ADDRESS go together"),
        (("pocket_fire", "--scheduler", "tcp://x:1"), "--engine dask and --scheduler ADDRESS go together"),
        (("pocket_fire", "--shards", "31"), "31 shards of 30 pictures: choose 1 to 30"),
        (("pocket_fire", "--map", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("light_squeezenet", "--quant", "force_float32", "--count", "3"), None),
    ],
    ids=[
        "model",
        "target",
        "quant",
        "format",
        "engine",
        "no-scheduler",
        "no-engine",
        "shards",
        "map",
        "classes",
    ],
)
def test_what_is_refused(sweep, tmp_path, drawn, arguments, message):
    pictures = drawn
    if message is None:
        pictures = tmp_path / "set"
        shutil.copytree(drawn, pictures)
        (pictures / "topfive-dataset.toml").write_text('name = "mine"\nclasses = 100\n')
        message = "light_squeezenet has 1000 classes, data set 'mine' has 100"
    code, _, err = sweep(*arguments, pictures=pictures)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_an_old_record_that_cannot_be_read_is_passed_over(sweep, tmp_path):
    folder = tmp_path / "records/sweeps/pocket_fire/cpu-int8"
    folder.mkdir(parents=True)
    (folder / "99991231T000000-00000000.json").write_text("{}")
    with pytest.warns(UserWarning, match="passed over: .*99991231T000000"):
        code, out, _ = sweep("pocket_fire", "--quant", "int8", "--json")
    assert code == 0
    assert json.loads(out)[0]["before"] is None


def test_without_a_set_the_bundled_models_run_drawn_pictures(sweep):
    code, out, _ = sweep("pocket_fire", "--quant", "int8", "--count", "20", "--json", pictures=None)
    assert code == 0
    (row,) = json.loads(out)
    assert (row["images"], row["dataset"]) == (20, "drawn_sweep_20")
    assert row["top1"]["fraction"] > 0.8
