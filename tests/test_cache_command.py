"""`topfive cache`: what is there, what uses it, and removing it."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from filelock import FileLock

import topfive
from test_plugin import CARD
from test_records import made
from topfive.cards import load_cards
from topfive.records import write_record
from topfive.sources import kept_file
from topfive.suite.provenance import built_from

from topfive_command import run_topfive


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return cache, topfive.build("pocket_fire", target="cpu", quant="force_float32", cache=cache)


def listed(cache, records, *more, command="list"):
    code, out, err = run_topfive(
        "cache", command, "--artifact-cache", cache, "--records", records, "--json", *more
    )
    assert code == 0, err
    return json.loads(out)


def test_what_is_there_and_what_uses_it(built, tmp_path):
    cache, artifact = built
    (cache / "downloads").mkdir(exist_ok=True)
    (cache / "downloads" / "big.onnx").write_bytes(b"1" * 5_000_000)
    test = {"test": "t", "kind": "golden", "outcome": "passed", "built": built_from(artifact)}
    record = made(tests=[test])
    write_record(tmp_path, record)
    found = listed(cache, tmp_path)
    kinds = {item["kind"]: item for item in found["items"]}
    assert kinds["compile"]["records"] == [record["id"]]
    assert kinds["optimize"]["records"] == [record["id"]]
    assert kinds["optimize"]["users"][0].startswith("compile ")
    assert kinds["downloads"]["bytes"] >= 5_000_000
    assert found["items"][0]["name"] == "big.onnx"
    assert found["bytes"] == sum(item["bytes"] for item in found["items"])
    code, out, _ = run_topfive("cache", "list", "--artifact-cache", cache, "--records", tmp_path)
    assert code == 0
    assert "1 records" in out


def test_downloads_are_used_by_the_cards_whose_files_they_are(tmp_path, monkeypatch):
    own = tmp_path / "own.toml"
    text = CARD.format(name="own", tags="", flags="", file="", sha256="", count=1)
    kept = re.sub(
        r"(?s)\[source\].*?(?=\n\[)",
        f'[source]\nkind = "url"\nurls = ["https://example.org/own.onnx"]\nsha256 = "{"a" * 64}"\n',
        text,
    )
    own.write_text(kept)
    monkeypatch.setenv("TOPFIVE_CARDS", str(own))
    cache, cards = tmp_path / "cache", load_cards()
    folder = cache / "downloads"
    folder.mkdir(parents=True)
    for name in ("own", "light_resnet50", "alexnet"):
        kept_file(cards[name], folder).write_bytes(b"1")
    note = kept_file(cards["alexnet"], folder).with_suffix(".json")
    note.write_text("{}")
    (folder / "stray.onnx").write_bytes(b"1")
    users = {item["name"]: item["users"] for item in listed(cache, tmp_path / "records")["items"]}
    assert users == {
        f"{'a' * 16}-own.onnx": ["card own"],
        kept_file(cards["light_resnet50"], folder).name: ["card light_resnet50"],
        kept_file(cards["alexnet"], folder).name: ["card alexnet"],
        note.name: ["card alexnet"],
        "stray.onnx": [],
    }
    assert kept_file(cards["pocket_fire"], folder) is None
    pruned = listed(cache, tmp_path / "records", "--unused", command="prune")
    assert [item["name"] for item in pruned["items"]] == ["stray.onnx"]


def test_packed_pictures_that_do_not_tell_what_they_are(tmp_path):
    pack = tmp_path / "cache" / "crops" / "ab" / "abcdef0123456789"
    pack.mkdir(parents=True)
    (pack / "about.json").write_text('{"size": [4, 4], "profile": "p", "count": 3}')
    (item,) = listed(tmp_path / "cache", tmp_path / "records")["items"]
    assert (item["kind"], item["name"], item["records"]) == ("crops", "abcdef012345", [])


def test_prune(built, tmp_path):
    cache, artifact = built
    assert run_topfive("cache", "prune", "--artifact-cache", cache)[0] == 2
    for days in ("-3", "nan"):
        assert run_topfive("cache", "prune", "--artifact-cache", cache, f"--older={days}")[0] == 2
    old = time.time() - 10 * 86_400
    os.utime(artifact.path, (old, old))
    would = listed(cache, tmp_path, "--older", "5", "--dry-run", command="prune")
    assert [item["kind"] for item in would["items"]] == ["compile"]
    assert artifact.path.is_dir()
    with FileLock(artifact.path.parent / f"{artifact.path.name}.lock"):
        assert listed(cache, tmp_path, "--older", "5", command="prune")["items"] == []
    assert artifact.path.is_dir()
    assert len(listed(cache, tmp_path, "--unused", "--kind", "compile", command="prune")["items"]) == 1
    assert not artifact.path.exists()
    again = topfive.build("pocket_fire", target="cpu", quant="force_float32", cache=cache)
    assert again.key == artifact.key
    listed(cache, tmp_path, "--all", command="prune")
    assert listed(cache, tmp_path)["items"] == []
