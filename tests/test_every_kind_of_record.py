"""Records of all four kinds, made by the real commands: their schema, the report of them, comparing them."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from test_records import SCHEMA
from topfive.loadgen import unavailable_reason
from topfive.records import list_records, write_record
from topfive.records.answers import Answers
from topfive.records.arrays import pack_array
from topfive.records.comparison import compare_records
from topfive.records.entries import entries_of
from topfive.records.envelope import seal
from topfive.records.gates import parse_gates
from topfive.report.site.names import page_name

from topfive_command import run_topfive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason=unavailable_reason()),
]
ROOT = Path(__file__).resolve().parent.parent
MODEL = "pocket_fire"
CASE = (MODEL, "cpu", "force_float32")
PICTURES = 30
ACCURACY = f"scenario {'-'.join(CASE)} accuracy-offline"


# Of its own, also where these tests run under xdist: what a worker starts is not measured.
ALONE = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}


class Kept:
    """A folder of records, and the newest record of each kind in it."""

    def __init__(self, folder):
        self.root, self.records = folder, folder / "records"

    def run(self, *arguments, cwd=None):
        """Run a program of this interpreter; its output. It must end well."""
        found = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            check=False,
            cwd=cwd or self.root,
            env=ALONE,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    def topfive(self, *arguments):
        """Run a command that leaves a record here."""
        return self.run("topfive", *arguments, "--records", self.records)

    def of(self, kind):
        """The records of a kind, the oldest first."""
        return [found for found in list_records(self.records) if found.kind == kind]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One session, one sweep, one pair, and two scenario records of the same pictures."""
    kept = Kept(tmp_path_factory.mktemp("project"))
    where = ("--artifact-cache", kept.root / "cache")
    chosen = ("-m", "gemmini_sim and (latency or scenario)", "-k", "latency or offline", "--models", MODEL)
    pytest_options = ("-q", "-p", "no:cacheprovider", *chosen, *where, "--records", kept.records)
    kept.run("pytest", "bench", *pytest_options, cwd=ROOT)
    kept.run("topfive", "dataset", "make", "drawn", "--images", PICTURES)
    plain = ("--quant", CASE[2], *where, "--threads", "1")
    kept.topfive("sweep", MODEL, *plain, "--imagenet", kept.root / "drawn", "--workers", "1")
    scenario = ("scenario", "-m", MODEL, *plain, "--imagenet", kept.root / "drawn")
    for number in (1, 2):
        keys = ("--scenario", "performance-offline", "--scenario", "accuracy-offline")
        kept.topfive(*scenario, *keys, "--logs", kept.root / f"logs{number}")
    side = ":".join(CASE)
    kept.topfive("pair", side, side, *plain[2:], "--seconds", "1", "--precision", "50%")
    return kept


@pytest.fixture(scope="module")
def site(kept):
    """The report of these records alone."""
    folder = kept.root / "site"
    kept.topfive("report", "-o", folder)
    return folder


def page_of(site, folder, run=""):
    """The words of the model's page or of a run's, one blank between any two."""
    text = (site / folder / f"{page_name(run if folder == 'runs' else MODEL)}.html").read_text("utf-8")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_each_kind_is_there_and_fits_the_published_schema(kept):
    records = list_records(kept.records)
    assert sorted(found.kind for found in records) == ["pair", "scenario", "scenario", "session", "sweep"]
    for found in records:
        jsonschema.validate(found.record, SCHEMA)
        assert all(case[0] == MODEL for case in found.cases)


def test_the_session_is_on_the_pages(kept, site):
    (found,) = kept.of("session")
    entries = entries_of(found.record)
    assert {entry.case["target"] for entry in entries.values()} == {"gemmini_sim"}
    pages = page_of(site, "models"), page_of(site, "runs", found.id)
    latencies = [entry for name, entry in entries.items() if "test_latency" in name]
    assert latencies
    for entry in latencies:
        assert len(entry.rounds) >= 3
        assert entry.values["modelled_bus"] > 0
        assert all(f"{1e3 * np.median(entry.rounds):.3f}" in page for page in pages)
    for key in ("performance-offline", "accuracy-offline"):
        (entry,) = (entry for name, entry in entries.items() if key in name)
        assert entry.stored["loadgen"]["key"] == key
        assert "times are the CPU's" in entry.values["simulated"]
        verdict = "-" if key.startswith("accuracy") else "VALID"
        assert all(f"gemmini_sim~ int8 {key} {verdict}" in page for page in pages)
    assert len(entry.answers.labels) == entry.stored["loadgen"]["total"] == entry.values["pictures"]
    assert entry.answers.right1.sum() == entry.stored["loadgen"]["right"]


@pytest.mark.parametrize("page", ["models", "runs"])
def test_the_sweep_is_on_the_pages(kept, site, page):
    (found,) = kept.of("sweep")
    (entry,) = entries_of(found.record).values()
    assert entry.sweep.pictures == PICTURES
    shown = page_of(site, page, found.id)
    assert f"{100 * entry.sweep.right1.mean():.2f} of {PICTURES}" in shown
    if page == "runs":
        assert f"{100 * entry.sweep.right5.mean():.2f}" in shown


@pytest.mark.parametrize("page", ["models", "runs"])
def test_loadgens_figure_and_verdict_are_on_the_pages(kept, site, page):
    found = kept.of("scenario")[-1]
    entries = entries_of(found.record)
    run = entries[ACCURACY.replace("accuracy", "performance")].stored["loadgen"]
    assert run["valid"]
    shown = page_of(site, page, found.id)
    rate = f"{run['metric']:,.0f}" if run["metric"] >= 100 else f"{run['metric']:.1f}"
    assert f"performance-offline VALID {rate} samples/s {run['metric_name']} {run['queries']} -" in shown
    right = entries[ACCURACY].answers.right1
    assert f"accuracy-offline - - - - {100 * right.mean():.2f} of {PICTURES}" in shown


@pytest.mark.parametrize("page", ["models", "runs"])
def test_the_pair_is_on_the_pages(kept, site, page):
    (found,) = kept.of("pair")
    pair = found.record["pair"]
    shown = page_of(site, page, found.id)
    for figures in (pair, pair["cpu"]):
        assert f"{figures['ratio']:.4f} ({figures['low']:.4f} to {figures['high']:.4f})" in shown
    assert f" {pair['verdict']} {pair['rounds']} " in shown
    key = found.record["tests"][0]["built"]["key"][:8]
    assert shown.count(f"{' '.join(CASE)} {key}") == 2


def test_an_accuracy_run_keeps_what_each_picture_was_answered(kept):
    (swept,) = entries_of(kept.of("sweep")[0].record).values()
    for found in kept.of("scenario"):
        answers = entries_of(found.record)[ACCURACY].answers
        for name in ("labels", "digests", "top5"):
            np.testing.assert_array_equal(getattr(answers, name), getattr(swept.sweep, name))
        log = json.loads((kept.root / "logs1" / "accuracy-Offline" / "mlperf_log_accuracy.json").read_text())
        told = {row["qsl_idx"]: np.frombuffer(bytes.fromhex(row["data"]), "<f4")[0] for row in log}
        assert answers.top5[:, 0].tolist() == [told[place] for place in range(PICTURES)]


def test_the_same_pictures_twice_are_the_same(kept):
    first, second = (found.path for found in kept.of("scenario"))
    code, out, err = run_topfive("compare", first, second, "--gate", "top1:0,top5:0", "--json")
    assert code == 0, err
    changes = {change["metric"]: change for change in json.loads(out)["changes"]}
    assert changes.keys() == {"top1", "top5"}
    for change in changes.values():
        assert (change["test"], change["verdict"]) == (ACCURACY, "same")
        assert change["note"] == f"{PICTURES} pictures, 0 lost, 0 gained"


def test_the_cache_says_which_sweep_its_pictures_are_of(kept):
    where = ("--artifact-cache", kept.root / "cache", "--records", kept.records, "--json")
    items = json.loads(run_topfive("cache", "list", *where)[1])["items"]
    (pack,) = (item for item in items if item["kind"] == "crops")
    assert pack["name"] == f"drawn pocket64 64x64, {PICTURES} pictures"
    assert pack["records"] == [kept.of("sweep")[0].id]
    compiled = next(item for item in items if item["kind"] == "compile" and "gemmini" not in item["name"])
    assert set(compiled["records"]) >= {found.id for kind in ("scenario", "pair") for found in kept.of(kind)}
    unused = json.loads(run_topfive("cache", "prune", "--unused", "--dry-run", *where)[1])["items"]
    assert pack["path"] not in [item["path"] for item in unused]


def with_answers(record, change):
    """The same record with other answers, sealed again."""
    made = json.loads(json.dumps(record))
    (test,) = (test for test in made["tests"] if test["test"] == ACCURACY)
    answers = Answers.from_json(test["answers"])
    top5 = answers.top5.copy()
    change(top5, answers.labels)
    test["answers"]["top5"] = pack_array(top5)
    made |= {"id": "changed", "created": "2099-01-01T00:00:00+00:00"}
    return seal({name: value for name, value in made.items() if name != "sha256"})


def test_other_answers_are_lost_and_gained(kept, tmp_path):
    base = kept.of("scenario")[0].record
    right = np.flatnonzero(entries_of(base)[ACCURACY].answers.right1)
    assert len(right) >= 12

    def wrong(top5, labels):
        # Nine lose their place as the best but stay among the five; three are gone altogether.
        top5[right[:9], 0], top5[right[:9], 1] = top5[right[:9], 1].copy(), labels[right[:9]]
        top5[right[9:12]] = -1

    worse = with_answers(base, wrong)
    jsonschema.validate(worse, SCHEMA)
    gates = parse_gates("top1:0.2,top5:0.2")
    found = {c.metric: c for c in compare_records(base, worse, gates).changes}
    assert found["top1"].note == f"{PICTURES} pictures, 12 lost, 0 gained"
    assert found["top5"].note == f"{PICTURES} pictures, 3 lost, 0 gained"
    assert (found["top1"].verdict, found["top5"].verdict) == ("worse", "noise")
    back = {c.metric: c for c in compare_records(worse, base, gates).changes}
    assert back["top1"].note == f"{PICTURES} pictures, 0 lost, 12 gained"
    assert back["top1"].verdict == "better"
    path = write_record(tmp_path, worse)
    assert run_topfive("compare", kept.of("scenario")[0].path, path, "--gate", "top1:0.2")[0] == 1


@pytest.mark.parametrize("part", ["labels", "top5", "digests"])
def test_answers_that_do_not_fit_each_other_are_refused(part):
    answers = Answers(np.zeros(3, np.int32), np.zeros((3, 5), np.int32), np.zeros(3, np.int64))
    stored = answers.to_json()
    assert Answers.from_json(stored).right1.all()
    stored[part] = pack_array(getattr(answers, part)[:2])
    with pytest.raises(ValueError, match="shapes"):
        Answers.from_json(stored)
