"""The static site: what is in it, that it is well formed, and that it needs nothing from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from topfive.cli import app
from topfive.errors import RecordError
from topfive.records import new_record, write_record
from topfive.records.arrays import pack_array, unpack_array
from topfive.records.published import published_rows
from topfive.report.site import Content, Material, read_content, site_files, write_site
from topfive.report.site.charts.frame import clean
from topfive.report.site.layers import cycle_bars, loss_chart, roofline
from topfive.report.site.names import page_name
from topfive.report.site.pages import megacycles, milliseconds, percent, rate

from report_records import MACHINE, case_tests, write_models, write_run

VOID = {"meta", "link", "input", "br", "img", "hr"}
MATERIAL = Material("report", "2026-02-01T00:00:00+00:00")
HOSTILE = ("<script>alert(1)</script>", 'a"b&c', "x' onload='y", "../../etc", "é <b>", "\u202e", "{{ 7*7 }}")
ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """Parses a page strictly: tags balance, ids are unique; keeps links, classes and cells."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.unnamed_pictures = 0
        self.awaits_title = False
        self.values: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in <{tag}>"
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(str(found["id"]))
        self.links += [
            str(found[name]) for name in ("href", "src", "data", "action", "srcset") if name in found
        ]
        self.labels += [str(found[name]) for name in ("aria-labelledby",) if name in found]
        self.unnamed_pictures += tag == "img" and not found.get("alt")
        # A picture in SVG is named by aria-label, or by a title as its first element.
        self.unnamed_pictures += self.awaits_title and tag != "title"
        self.awaits_title = tag == "svg" and "aria-label" not in found
        assert not any(name.startswith("on") for name in found), f"a handler in <{tag}>"
        if "data-v" in found:
            self.values.append(str(found["data-v"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_site(files: dict[str, bytes]) -> dict[str, Page]:
    """Every page is well formed, links only to files of the site, and names its pictures."""
    pages = {name: Page(data.decode()) for name, data in files.items() if name.endswith(".html")}
    for name, page in pages.items():
        assert page.unnamed_pictures == 0, name
        assert set(page.labels) <= set(page.ids), name
        for link in page.links:
            if link.startswith("#"):
                assert link[1:] in page.ids
            elif not link.startswith("data:,"):
                assert ":" not in link, f"{name} links to {link}"
                assert not link.startswith("/")
                folder = Path(name).parent
                target = (Path("/") / folder / link).resolve().relative_to("/").as_posix()
                assert target in files, f"{name} links to {link}"
    # An SVG's namespace is a name, not an address that anything opens.
    outside = re.compile(rb"https?://(?!www\.w3\.org/2000/svg\b)|@import|url\(")
    for name in ("style.css", "index.html"):
        assert not outside.search(files[name]), name
    return pages


def site(tmp_path: Path, **material: object) -> dict[str, bytes]:
    content = read_content([tmp_path])
    return site_files(content, Material("report", "2026-02-01T00:00:00+00:00", **material))  # type: ignore[arg-type]


def test_nothing() -> None:
    files = site_files(Content(), MATERIAL)
    pages = check_site(files)
    assert set(files) == {"index.html", "style.css"}
    assert "There is nothing to show yet" in "".join(pages["index.html"].words)


def test_one_record_numbers(tmp_path: Path) -> None:
    tests = case_tests("net", "gemmini_sim", "int8", 3, 50)
    write_run(tmp_path, tests)
    files = site(tmp_path)
    pages = check_site(files)
    assert set(files) == {"index.html", "style.css", "models/net.html", "runs/session-000.html"}
    index = pages["index.html"]
    golden, first = tests[0]["values"], tests[1]["values"]
    best = max(test["values"]["images_per_s"] for test in tests[1:])
    wanted = [golden["top1"], first["p50"], first["p99"], best, golden["modelled_estimate"]]
    assert [float(value) for value in index.values[:5]] == wanted
    words = "".join(index.words)
    for text in (
        percent(golden["top1"]),
        milliseconds(first["p50"]),
        f"{milliseconds(first['p99'])}*",
        rate(best),
        f"{megacycles(golden['modelled_estimate'])}/{megacycles(golden['modelled_bus'])}",
        "gemmini_sim~",
        "~ gemmini_sim is simulated",
        golden["golden"],
    ):
        assert text in words
    for page in ("models/net.html", "runs/session-000.html"):
        shown = "".join(pages[page].words)
        for test in tests[1:]:
            assert all(milliseconds(test["values"][name]) in shown for name in ("p50", "p90", "p99"))
            assert rate(test["values"]["images_per_s"]) in shown
    run = "".join(pages["runs/session-000.html"].words)
    assert "pytest bench" in run
    assert "bench-1" in run
    assert "avx2, fma" in run


def test_newest_figure_wins(tmp_path: Path) -> None:
    for number, verdict in ((0, "exact"), (2, "fail"), (1, "drift")):
        tests = case_tests("net", "cpu", "int8", 5, 20)
        tests[0]["values"]["golden"] = verdict
        write_run(tmp_path, tests, number)
    page = check_site(site(tmp_path))["index.html"]
    assert "fail" in page.words
    assert "drift" not in page.words


def test_sessions_without_times_keep_the_older_ones(tmp_path: Path) -> None:
    tests = case_tests("net", "cpu", "int8", 5, 20)
    write_run(tmp_path, tests, 0)
    write_run(tmp_path, tests[:1], 1)
    page = check_site(site(tmp_path))["index.html"]
    assert str(tests[1]["values"]["p50"]) in page.values


@pytest.mark.parametrize("name", HOSTILE, ids=[f"name{n}" for n in range(len(HOSTILE))])
def test_hostile_names(tmp_path: Path, name: str) -> None:
    tests = case_tests(name, "cpu", name, 1, 20)
    tests[0] |= {"outcome": "failed", "reason": f"it is {name}"}
    write_run(tmp_path, tests, command=f"pytest {name}", machine={**MACHINE, "host": name, name: name})
    files = site(tmp_path)
    pages = check_site(files)
    assert any(name in words for words in pages["index.html"].words)
    assert b"<script>alert" not in b"".join(files.values())
    assert b"49" not in files["index.html"] or "{{" not in name


def test_page_names_do_not_meet() -> None:
    names = ["a", "A", "a/b", "a-b", "a b", "..", ".", "", "a" * 300, "a" * 299 + "b", "CON<"]
    made = [page_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) for name in made)


@pytest.mark.parametrize("fault", ["truncated", "edited", "newer", "text", "other"])
def test_broken_record_is_named_and_skipped(tmp_path: Path, fault: str) -> None:
    write_run(tmp_path, case_tests("good", "cpu", "int8", 1, 20), 0)
    bad = write_run(tmp_path, case_tests("bad", "cpu", "int8", 1, 20), 1)
    text = bad.read_text()
    made = {
        "truncated": text[: len(text) // 2],
        "edited": text.replace('"exact"', '"drift"').replace('"top1":0.9', '"top1":0.8'),
        "newer": text.replace('"version":1', '"version":2'),
        "text": "not a record <b>",
        "other": '{"some": "json"}',
    }[fault]
    assert made != text
    bad.write_text(made)
    content = read_content([tmp_path])
    assert [broken.source for broken in content.broken] == ["session-001.json"]
    assert str(tmp_path) not in content.broken[0].reason
    index = check_site(site(tmp_path))["index.html"]
    assert "1 file is left out" in "".join(index.words)
    assert "session-001.json" in index.words
    assert "good" in index.words


@pytest.mark.parametrize(
    ("name", "value"), [("p50", "fast"), ("top1", [1]), ("images_per_s", True), ("modelled_estimate", "x")]
)
def test_sealed_record_of_wrong_kinds(tmp_path: Path, name: str, value: object) -> None:
    tests = case_tests("bad", "cpu", "int8", 1, 20)
    tests[1]["values"][name] = value
    write_run(tmp_path, tests)
    content = read_content([tmp_path])
    assert [(b.source, name in b.reason) for b in content.broken] == [("session-000.json", True)]
    check_site(site(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"p50": 1e-320},
        {"p99": -1.0},
        {"p90": 1e300},
        {"top1": 7.0},
        {"images_per_s": -2.0},
        {"rounds": 0.5},
        {"case": {"model": "odd", "target": "cpu", "quant": "int8", "batch": 0}},
        {"case": {"model": "odd", "target": "cpu", "quant": "int8", "batch": "x"}},
        {"round": float("nan")},
        {"round": -1.0},
        {"round": 1e300},
    ],
    ids=[
        "subnormal",
        "negative",
        "ages",
        "top1_7",
        "rate",
        "half_a_round",
        "batch_0",
        "batch_text",
        "round_nan",
        "round_negative",
        "round_ages",
    ],
)
def test_impossible_numbers_leave_the_record_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    tests = case_tests("odd", "cpu", "int8", 1, 20)
    if "round" in changes:
        tests[1]["rounds"] = pack_array(np.asarray([1e-3, changes["round"]]))
    elif "case" in changes:
        tests[1] |= changes
    else:
        tests[1]["values"] |= changes
    write_run(tmp_path, tests)
    write_run(tmp_path, case_tests("good", "cpu", "int8", 1, 20), 1)
    content = read_content([tmp_path])
    assert [broken.source for broken in content.broken] == ["session-000.json"]
    check_site(site(tmp_path))


def test_rounds_of_no_time_and_none_are_shown_without_a_figure(tmp_path: Path) -> None:
    """A coarse clock may say 0."""
    for number, seconds in enumerate((np.zeros(5), np.empty(0))):
        tests = case_tests("net", "cpu", "int8", 1, 20)[:2]
        tests[1]["values"] = {"p50": 0.0, "p90": 0.0, "p99": 0.0, "rounds": len(seconds)}
        tests[1]["rounds"] = pack_array(seconds)
        write_run(tmp_path, tests, number)
    files = site(tmp_path)
    check_site(files)
    assert b"No raw rounds in these records" in files["models/net.html"]
    assert b"0.000" in files["models/net.html"]


def test_control_characters_are_shown_as_pictures(tmp_path: Path) -> None:
    tests = case_tests("a\x00\x1b[31mb", "cpu", "int8", 1, 20)
    tests[0] |= {"outcome": "failed", "reason": "line\n\x07bell"}
    write_run(tmp_path, tests, 0)
    write_run(tmp_path, tests, 1)
    for name, data in site(tmp_path).items():
        if name.endswith(".html"):
            assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", data), name
    assert "a\u2400\u241b[31mb" in site(tmp_path)["index.html"].decode()


def test_models_filter(tmp_path: Path) -> None:
    write_models(tmp_path, ["pocket_a", "pocket_b", "light_c"])
    content = read_content([tmp_path], models=["pocket_*"])
    assert {case[0] for case in content.cases()} == {"pocket_a", "pocket_b"}
    assert read_content([tmp_path], models=["none"]).runs == []


def benchmark_file(seconds: list[float]) -> dict[str, object]:
    row = {
        "fullname": "bench/test_latency.py::test_latency[net-cpu-int8-b1]",
        "params": {"model": "net", "target": "cpu", "quant": "int8", "batch": 1},
        "extra_info": {"p50": 0.5, "p90": 0.6, "p99": 0.7, "images_per_s": 2.0, "simulated": ""},
        "stats": {"rounds": len(seconds), "data": seconds},
    }
    return {
        "machine_info": {"node": "old-host", "cpu": {"brand_raw": "A CPU"}},
        "commit_info": {"id": "0123456789ab", "dirty": True},
        "datetime": "2026-01-05T10:00:00+01:00",
        "benchmarks": [row, {"fullname": "other", "params": None, "stats": {}, "extra_info": {}}],
    }


def test_benchmark_storage(tmp_path: Path) -> None:
    folder = tmp_path / "Linux-CPython"
    folder.mkdir()
    (folder / "0001_x.json").write_text(json.dumps(benchmark_file([0.4, 0.5, 0.6])))
    (folder / "0002_y.json").write_text("{")
    content = read_content(benchmarks=[tmp_path])
    (run,) = content.runs
    assert (run.created, run.host, run.commit) == ("2026-01-05T09:00:00+00:00", "old-host", "0123456789ab")
    assert run.figures[0].values["p99"] == 0.7
    assert [broken.source for broken in content.broken] == ["Linux-CPython/0002_y.json"]
    check_site(site_files(content, MATERIAL))


def test_a_session_saved_twice_is_one_run(tmp_path: Path) -> None:
    """A session with --benchmark-autosave writes a record and a file with the same rounds."""
    tests = case_tests("net", "cpu", "int8", 1, 20)[:2]
    write_run(tmp_path / "records", tests)
    seconds = unpack_array(tests[1]["rounds"]).tolist()
    (tmp_path / "same.json").write_text(json.dumps(benchmark_file(seconds)))
    (tmp_path / "other.json").write_text(json.dumps(benchmark_file([*seconds, 1.0])))
    content = read_content([tmp_path / "records"], [tmp_path / "same.json", tmp_path / "other.json"])
    assert [run.source for run in content.runs] == ["session-000.json", "other.json"]


def test_goldens_of_the_repository() -> None:
    content = read_content(goldens=ROOT / "golden", models=["pocket_*"])
    assert not content.broken
    files = site_files(content, MATERIAL)
    page = check_site(files)["models/pocket_resnet.html"]
    golden = content.goldens["pocket_resnet", "gemmini_sim", "int8"]
    words = "".join(page.words)
    assert "committed" in words
    assert percent(golden.top1) in words
    assert megacycles(golden.modelled_cycles["1"]["estimate"]) in words


def test_published_rows_are_reference_rows(tmp_path: Path) -> None:
    rows = published_rows()
    write_run(tmp_path, case_tests("light_resnet50", "cpu", "int8", 1, 20))
    write_run(tmp_path, case_tests("efficientnet_b2", "cpu", "force_float32", 1, 20), 1)
    pages = check_site(site(tmp_path, published=rows))
    words = "".join(pages["models/light_resnet50.html"].words)
    assert "Published by the makers, not measured here." in words
    for text in ("7623.0", "5782.66", "6966.43", "75.58", "MLU370 X4", "quic/cloud-ai-sdk"):
        assert text in words
    words = "".join(pages["models/efficientnet_b2.html"].words)
    assert all(text in words for text in ("2693.4", "1001.3", "best-latency"))
    assert "7623.0" not in words


@pytest.mark.slow
def test_fifty_models_in_two_megabytes(tmp_path: Path) -> None:
    write_models(tmp_path, [f"network_number_{n:02d}" for n in range(50)], runs=2)
    files = site(tmp_path)
    check_site(files)
    size = sum(map(len, files.values()))
    index = len(files["index.html"])
    print(f"50 models x 5 cases: {len(files)} files, {size / 1e6:.2f} MB, index {index / 1e3:.0f} kB")
    assert size < 2_000_000


def test_writing_replaces_only_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_site({"index.html": b"1", "models/old.html": b"2"}, folder)
    (folder / "note.txt").write_text("mine")
    write_site({"index.html": b"3"}, folder)
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert names == ["index.html", "note.txt", "topfive-report.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(RecordError, match="no report of topfive"):
        write_site({"index.html": b""}, other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_edited_manifest_removes_nothing_outside(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_site({"index.html": b"1"}, folder)
    (tmp_path / "keep.txt").write_text("x")
    (folder / "topfive-report.json").write_text(
        json.dumps({"files": ["../keep.txt", str(tmp_path / "keep.txt"), 7]})
    )
    write_site({"index.html": b"1"}, folder)
    assert (tmp_path / "keep.txt").exists()


def test_command(tmp_path: Path) -> None:
    write_run(tmp_path / "records", case_tests("net", "cpu", "int8", 1, 20))
    (tmp_path / "records" / "bad.json").write_text("{")
    (tmp_path / "golden").mkdir()
    arguments = ["report", "-o", str(tmp_path / "site"), "--records", str(tmp_path / "records"), "--json"]
    arguments += ["--golden", str(tmp_path / "golden"), "--benchmarks", str(tmp_path / "golden")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["cases"], said["runs"]) == (1, 1)
    assert [one["source"] for one in said["broken"]] == ["bad.json"]
    on_disk = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in on_disk) == said["bytes"]


def test_command_refuses_a_missing_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", "-o", str(tmp_path / "s"), "--records", str(tmp_path / "none")])
    assert isinstance(done.exception, RecordError)
    assert not (tmp_path / "s").exists()


def test_layers_of_a_model(tmp_path: Path) -> None:
    """A real study: SQNR and modelled cycles of the page are those of the commands that print them."""
    from topfive.cards import load_cards
    from topfive.commands.report import _studied
    from topfive.trace.summary import summarise

    write_run(
        tmp_path,
        case_tests("pocket_resnet", "cpu", "force_float32", 1, 20)
        + case_tests("pocket_resnet", "gemmini_sim", "int8", 1, 20),
    )
    content = read_content([tmp_path])
    study = _studied(content, load_cards(), None, {}, ["pocket_*"])["pocket_resnet"]
    assert study.problems == ()
    (loss,), (trace,) = study.losses, study.traces
    chart = loss_chart(loss)
    assert chart.count('class="') > len(loss.layers)
    assert all(clean(layer.tensor[-20:]) in chart for layer in loss.layers)
    assert all(f">{layer.sqnr:.1f}<" in chart for layer in loss.layers)
    bars = cycle_bars(trace)
    shown = [int(text.replace(",", "")) for text in re.findall(r">([\d,]+), \w+</text></g>", bars)]
    assert (
        sum(shown) == trace.about["modelled"]["estimate_cycles"] == summarise(trace, "op", "modelled").cycles
    )
    assert roofline(trace).count(" dot") > 5
    page = site(tmp_path, studies={"pocket_resnet": study})
    words = "".join(check_site(page)["models/pocket_resnet.html"].words)
    assert _studied(content, load_cards(), None, {}, ["other"]) == {}
    assert "Modelled, not measured" in words
    assert "Flame graph" in words


def relative_luminance(colour: str) -> float:
    """WCAG 2: of an sRGB colour #rrggbb."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def themes() -> Iterator[dict[str, str]]:
    text = (ROOT / "src/topfive/report/site/templates/style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", text, re.S)
    first = dict(re.findall(r"--([\w-]+): (#\w{6})", light))
    yield first
    yield {**first, **dict(re.findall(r"--([\w-]+): (#\w{6})", dark))}


@pytest.mark.parametrize("theme", list(themes()), ids=["light", "dark"])
def test_contrast(theme: dict[str, str]) -> None:
    pairs = [(ink, ground) for ink in ("ink", "faint", "link") for ground in ("paper", "soft")]
    pairs += [(f"{name}-ink", name) for name in ("exact", "drift", "fail", "other")] + [("ink", "bar")]
    for ink, ground in pairs:
        one, other = sorted((relative_luminance(theme[ink]), relative_luminance(theme[ground])))
        assert (other + 0.05) / (one + 0.05) >= 4.5, (ink, ground)
    for number in range(8):
        one, other = sorted((relative_luminance(theme[f"s{number}"]), relative_luminance(theme["paper"])))
        assert (other + 0.05) / (one + 0.05) >= 3.0, number


def test_packed_rounds_of_a_pair_are_read(tmp_path: Path) -> None:
    """A record of another kind, with a test that has rounds and no values, does no harm."""
    test = {
        "test": "bare",
        "outcome": "passed",
        "case": {"model": "m", "target": "cpu", "quant": "int8", "batch": 1},
        "rounds": pack_array(np.ones(3)),
    }
    write_record(tmp_path, new_record("pair", tests=[test]))
    content = read_content([tmp_path])
    assert content.runs[0].figures[0].seconds.tolist() == [1.0, 1.0, 1.0]
    check_site(site(tmp_path))


def test_times_of_a_busy_machine_are_marked(tmp_path: Path) -> None:
    quiet, busy = case_tests("calm", "cpu", "int8", 1, 200), case_tests("crowded", "cpu", "int8", 2, 200)
    for test, others in [*((t, 0.19) for t in quiet), *((t, 1.25) for t in busy)]:
        test["values"]["others"] = others
    write_run(tmp_path, [*quiet, *busy])
    pages = check_site(site(tmp_path))
    shown = [milliseconds(test["values"]["p50"]) for test in (quiet[1], busy[1])]
    for page in ("index.html", "models/calm.html", "models/crowded.html", "runs/session-000.html"):
        words = pages[page].words
        assert f"{shown[0]}!" not in words
        assert (f"{shown[1]}!" in words) == ("calm" not in page)
        note = "! measured while other processes took up to 1.2 processors."
        assert (note in words) == ("calm" not in page)
