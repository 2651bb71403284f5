"""Records: writing, reading, damage, finding, archives, and what the commands do with them."""

from __future__ import annotations

import io
import json
import multiprocessing
import stat
import zipfile
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import RecordError
from topfive.records import (
    find_record,
    list_records,
    new_record,
    read_record,
    records_folder,
    write_record,
    write_sweep,
)
from topfive.records.archive import export_records, import_records
from topfive.records.arrays import pack_array
from topfive.records.envelope import VERSION, content_hash, parse_record, seal
from topfive.records.library import Filter
from topfive.suite.environment import fingerprint, machine

from sweeps import record as sweep_record
from topfive_command import run_topfive

SCHEMA = json.loads((files("topfive.records") / "schema" / "record-1.json").read_text())


def made(name="t", model="m", target="cpu", **more):
    test = {
        "test": name,
        "kind": "latency",
        "outcome": "passed",
        "case": {"model": model, "target": target, "quant": "int8", "batch": 1},
        "rounds": pack_array(np.arange(5.0)),
    }
    return new_record("session", **{"tests": [test], "machine": machine(), **more})


def test_records_fit_the_published_schema(tmp_path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(made(), SCHEMA)
    path = write_sweep(tmp_path, sweep_record([1, 2]))
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == VERSION
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**made(), "kind": "photo"}, SCHEMA)


def test_a_record_survives_its_file(tmp_path):
    record = made(tags=["a"], odd=(1, float("nan"), np.float64(2), {"b", "a"}))
    assert record["odd"] == [1, None, 2.0, ["a", "b"]]
    path = write_record(tmp_path, record)
    assert read_record(path) == record
    assert [p.name for p in tmp_path.iterdir()] == [f"{record['id']}.json"]


PLAIN = json.dumps(made()).encode()


@given(st.integers(0, len(PLAIN) - 1))
def test_a_truncated_record_is_refused(length):
    with pytest.raises(RecordError, match="truncated"):
        parse_record(PLAIN[:length], "a.json")


@given(st.integers(0, len(PLAIN) - 1), st.sampled_from(b'0a"}{x '))
def test_an_edited_record_is_refused_or_the_same(place, byte):
    edited = PLAIN[:place] + bytes([byte]) + PLAIN[place + 1 :]
    try:
        found = parse_record(edited, "a.json")
    except RecordError:
        return
    assert found == json.loads(PLAIN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": VERSION + 1}, "made by a newer topfive"),
        ({"version": "1"}, "version '1'"),
        ({"schema": "other"}, "does not say schema"),
        ({"command": "pytest --lied"}, "edited or damaged"),
        ({"sha256": "0" * 64}, "edited or damaged"),
        ({"sha256": None}, "edited or damaged"),
    ],
    ids=["newer", "version", "schema", "edited", "hash", "no_hash"],
)
def test_what_is_no_intact_record(tmp_path, change, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**made(), **change}))
    with pytest.raises(RecordError, match=words) as caught:
        read_record(path)
    assert "a.json" in str(caught.value)
    code, _, err = run_topfive("records", "show", path)
    assert (code, "Traceback" in err) == (2, False)


def test_a_sealed_record_of_another_form_is_refused():
    for change in ({"tests": {}}, {"kind": "photo"}, {"created": 3}):
        broken = seal({**made(), **change})
        assert broken["sha256"] == content_hash(broken)
        with pytest.raises(RecordError, match="no record of topfive"):
            parse_record(json.dumps(broken).encode(), "a.json")


def _write_many(root):
    for _ in range(20):
        write_record(root, made())


def test_writers_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(list_records(tmp_path)) == 60
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_where_records_are(tmp_path, monkeypatch):
    monkeypatch.delenv("TOPFIVE_RECORDS")
    (tmp_path / "project" / "deep").mkdir(parents=True)
    (tmp_path / "project" / "pytest.ini").touch()
    own = tmp_path / "project" / ".topfive" / "records"
    assert records_folder(start=tmp_path / "project" / "deep") == own
    monkeypatch.chdir(tmp_path / "project")
    assert records_folder() == own
    monkeypatch.setenv("TOPFIVE_RECORDS", str(tmp_path / "named"))
    assert records_folder() == tmp_path / "named"
    assert records_folder(tmp_path / "given") == tmp_path / "given"


def test_the_fingerprint_is_of_what_makes_times_comparable():
    here = machine()
    assert here["fingerprint"] == fingerprint(here)
    assert fingerprint({**here, "load": [99], "host": "x", "python": "y"}) == here["fingerprint"]
    assert fingerprint({**here, "processors": 1000}) != here["fingerprint"]


# Finding


@pytest.fixture
def shelf(tmp_path):
    for day, name, more in (
        (1, "first", {"tags": ["nightly", "ck"]}),
        (2, "second", {"model": "other", "tags": ["nightly"]}),
        (3, "third", {"target": "gemmini_sim"}),
    ):
        record = made(created=f"2026-01-0{day}T12:00:00+00:00", identity=name, **more)
        write_record(tmp_path, record)
    write_sweep(tmp_path, sweep_record([1], created="2026-01-04T00:00:00+00:00"))
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Filter(tags=("nightly",)), ["first", "second"]),
        (Filter(tags=("nightly", "ck")), ["first"]),
        (Filter(model="m", kind="session"), ["first", "third"]),
        (Filter(model="oth*"), ["second"]),
        (Filter(target="gemmini*"), ["third"]),
        (Filter(since="2026-01-02", until="2026-01-03"), ["second", "third"]),
        (Filter(kind="sweep"), ["20260104T000000-now"]),
        (Filter(model="m", target="gemmini_sim", since="2026-01-04"), []),
    ],
    ids=lambda value: str(value) if isinstance(value, Filter) else "",
)
def test_filters(shelf, wanted, names):
    assert [one.id for one in list_records(shelf, wanted)] == names


@pytest.mark.parametrize(
    "arguments",
    [("--kind", "photo"), ("--since", "yesterday"), ("--until", "2026-1-1"), ("--since", "01.11.2026")],
    ids=["kind", "word", "short", "other_order"],
)
def test_filters_that_nothing_could_fulfil_are_refused(shelf, arguments):
    code, _, err = run_topfive("records", "list", "--records", shelf, *arguments)
    assert (code, arguments[0] in err, "Traceback" in err) == (2, True, False)


def test_references(shelf):
    assert find_record(shelf, "latest").id == "20260104T000000-now"
    assert find_record(shelf, "latest:session").id == "third"
    assert find_record(shelf, "latest~1", kind="session").id == "second"
    assert find_record(shelf, "sec").id == "second"
    assert find_record(shelf, str(shelf / "first.json")).id == "first"
    write_record(shelf, made(identity="sec2"))
    with pytest.raises(RecordError, match="begins 2 records"):
        find_record(shelf, "sec")
    for wrong in ("nobody", "latest~7", "no/where.json"):
        with pytest.raises(RecordError):
            find_record(shelf, wrong)


def test_a_damaged_file_does_not_hide_the_others(shelf):
    (shelf / "bad.json").write_text("{")
    code, out, err = run_topfive("records", "list", "--records", shelf)
    assert code == 0
    assert "third" in out
    assert "bad.json is truncated" in err
    code, out, _ = run_topfive("records", "list", "--records", shelf, "--tags", "ck", "--json")
    assert [one["id"] for one in json.loads(out)["records"]] == ["first"]


def test_show_and_rm(shelf):
    where = ("--records", shelf)
    assert "passed   t: " not in run_topfive("records", "show", "first", *where)[1]
    assert "fingerprint" in run_topfive("records", "show", "first", *where)[1]
    assert json.loads(run_topfive("records", "show", "first", *where, "--json")[1])["id"] == "first"
    assert run_topfive("records", "rm", "first", "nobody", *where)[0] == 2
    assert (shelf / "first.json").exists()
    code, out, _ = run_topfive("records", "rm", "first", "first", *where)
    assert (code, out) == (0, "removed first\n")
    assert not (shelf / "first.json").exists()


# Archives


def test_out_and_in_again(shelf, tmp_path):
    archive, there = tmp_path / "results.zip", tmp_path / "there"
    code, _, _ = run_topfive("export", "-o", archive, "--records", shelf)
    assert code == 0
    assert run_topfive("export", "-o", archive, "--records", shelf)[0] == 2
    code, out, _ = run_topfive("import", archive, "--records", there, "--json")
    assert (code, len(json.loads(out)["imported"])) == (0, 4)
    names = {p.relative_to(shelf) for p in shelf.rglob("*.json") if there not in p.parents}
    assert {p.relative_to(there) for p in there.rglob("*.json")} == names
    assert all((there / name).read_bytes() == (shelf / name).read_bytes() for name in names)
    assert import_records(archive, there)[1] == 4
    (there / "first.json").write_bytes(json.dumps(made(identity="first")).encode())
    with pytest.raises(RecordError, match="exists and is another record"):
        import_records(archive, there)


def archive_of(path, entries, manifest=None):
    """A zip of names (or ZipInfos) and bytes with a manifest that fits."""
    from hashlib import sha256

    names = {n if isinstance(n, str) else n.filename: data for n, data in entries}
    wanted = manifest or {
        "format": "topfive-records",
        "version": 1,
        "files": {name: sha256(data).hexdigest() for name, data in names.items()},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.writestr("manifest.json", json.dumps(wanted))
    return path


GOOD = json.dumps(made(identity="good")).encode()


DEEP = b"[" * 100_000


def special(name, kind):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def link(name):
    return special(name, stat.S_IFLNK)


def packed(name, method):
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    return info


def inner_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"0" * 1_000_000)
    return file.getvalue()


@pytest.mark.parametrize(
    ("entries", "manifest", "words"),
    [
        ([("records/../../evil.json", GOOD)], None, "no place of a record"),
        ([("../evil.json", GOOD)], None, "no place of a record"),
        ([("/tmp/evil.json", GOOD)], None, "no place of a record"),
        ([("C:\\evil.json", GOOD)], None, "no place of a record"),
        ([("records/..\\evil.json", GOOD)], None, "no place of a record"),
        ([("records/.hidden.json", GOOD)], None, "no place of a record"),
        ([("records/script.py", GOOD)], None, "no place of a record"),
        ([("records/NUL.json", GOOD)], None, "no place of a record"),
        ([("records/com1.x/good.json", GOOD)], None, "no place of a record"),
        ([(f"records/{'a' * 300}.json", GOOD)], None, "no place of a record"),
        ([("records/gööd.json", GOOD)], None, "no place of a record"),
        ([("records/", b"")], None, "no plain file"),
        ([("records/good.json", GOOD), ("records/Good.json", GOOD)], None, "an entry twice"),
        ([("records/good.json", GOOD), ("records/good.json/b.json", GOOD)], None, "a file and a folder"),
        ([(packed("records/good.json", zipfile.ZIP_BZIP2), GOOD)], None, "neither stored nor deflated"),
        ([(packed("records/good.json", zipfile.ZIP_LZMA), GOOD)], None, "neither stored nor deflated"),
        ([(special("records/good.json", stat.S_IFCHR), b"")], None, "no plain file"),
        ([("records/good.json", DEEP)], None, "truncated or is no record"),
        ([("records/good.json", inner_zip())], None, "truncated or is no record"),
        ([(link("records/good.json"), b"/etc/passwd")], None, "no plain file"),
        ([("records/good.json", b" " * (20 << 20))], None, "a zip bomb"),
        ([("records/good.json", GOOD[:-9])], None, "truncated"),
        ([("records/other.json", GOOD)], None, "it was renamed"),
        ([("records/good.json", GOOD)], {"format": "topfive-records", "version": 2, "files": {}}, "newer"),
        ([("records/good.json", GOOD)], {"format": "other", "version": 1, "files": {}}, "no readable"),
        (
            [("records/good.json", GOOD)],
            {"format": "topfive-records", "version": 1, "files": {}},
            "not in both",
        ),
        (
            [("records/good.json", GOOD)],
            {"format": "topfive-records", "version": 1, "files": {"records/good.json": "0" * 64}},
            "not what the manifest says",
        ),
        ([("records/good.json", GOOD), ("records/b.json", b"{}")], None, "does not say schema"),
    ],
    ids=[
        "dots",
        "outside",
        "absolute",
        "drive",
        "backslash",
        "hidden",
        "script",
        "device",
        "device_folder",
        "long",
        "not_ascii",
        "folder",
        "twice",
        "file_and_folder",
        "bzip2",
        "lzma",
        "character_device",
        "deep",
        "nested",
        "link",
        "bomb",
        "truncated",
        "renamed",
        "newer",
        "format",
        "unlisted",
        "hash",
        "one_bad",
    ],
)
def test_archives_that_are_refused_leave_nothing(tmp_path, entries, manifest, words):
    archive = archive_of(tmp_path / "a.zip", entries, manifest)
    there = tmp_path / "there"
    code, _, err = run_topfive("import", archive, "--records", there)
    assert code == 2
    assert words in err
    assert not list(there.rglob("*"))


def test_more_data_than_declared_is_refused(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("records/good.json", GOOD + b" " * 5000)])
    data = bytearray(path.read_bytes())
    true, declared = (len(GOOD) + 5000).to_bytes(4, "little"), len(GOOD).to_bytes(4, "little")
    assert data.count(true) == 2
    path.write_bytes(bytes(data).replace(true, declared))
    with pytest.raises(RecordError):
        import_records(path, tmp_path / "there")


def test_a_link_in_the_records_folder_is_not_followed(tmp_path):
    there, outside = tmp_path / "there", tmp_path / "outside"
    there.mkdir()
    outside.mkdir()
    (there / "sub").symlink_to(outside)
    archive = archive_of(tmp_path / "a.zip", [("records/sub/good.json", GOOD)])
    with pytest.raises(RecordError, match="outside"):
        import_records(archive, there)
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("place", "data"),
    [(b"records/good.json", b"records/go\xff\xfe.json"), (None, b"\xff" * 40)],
    ids=["name_not_utf8", "damaged_deflate"],
)
def test_archives_that_zipfile_cannot_read(tmp_path, place, data):
    path = archive_of(tmp_path / "a.zip", [("records/good.json", GOOD)])
    content = bytearray(path.read_bytes())
    if place is None:
        content[60 : 60 + len(data)] = data
    else:
        content = content.replace(place, data)
        # The flag that names are UTF-8, before the file and in the central directory.
        for signature, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
            content[content.index(signature) + offset] |= 8
    path.write_bytes(content)
    code, _, err = run_topfive("import", path, "--records", tmp_path / "there")
    assert (code, "no zip file of records" in err, "Traceback" in err) == (2, True, False)


def test_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("topfive.records.archive.MOST_RECORDS", 3)
    path = archive_of(tmp_path / "a.zip", [(f"records/{n}.json", b"{}") for n in range(4)])
    with pytest.raises(RecordError, match="5 entries"):
        import_records(path, tmp_path / "there")


@pytest.mark.parametrize("depth", [300, 500, 700, 900, 990])
def test_deeply_nested_records_are_refused(depth):
    record = {**made(), "deep": json.loads("[" * 10 + "]" * 10)}
    text = json.dumps(record).replace("[" * 10 + "]" * 10, "[" * depth + "]" * depth)
    with pytest.raises(RecordError):
        parse_record(text.encode(), "a.json")


@given(st.binary(max_size=200))
def test_any_bytes_are_no_archive(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.zip"
    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(RecordError):
        import_records(path, path.parent / "nowhere")


def test_the_same_records_make_the_same_archive(shelf, tmp_path):
    for name in ("a.zip", "b.zip"):
        export_records(list_records(shelf), shelf, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
