"""Comparing records: every verdict, every refusal, and how it is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import OptionError, RecordError, UnknownNameError
from topfive.records import new_record, write_record
from topfive.records.arrays import pack_array
from topfive.records.comparison import compare_records
from topfive.records.gates import DEFAULT_GATES, Gate, parse_gates
from topfive.report.comparison import comparison_json, comparison_markdown, comparison_table, failure_text

from sweeps import record as sweep_record
from topfive_command import run_topfive

MACHINE = {"fingerprint": "one", "cpu": "a processor", "processors": 2, "versions": {"numpy": "2.0"}}
CASE = {"model": "m", "target": "cpu", "quant": "int8", "batch": 1}


def times(median, count=200, seed=0):
    return median * (1 + 0.02 * np.random.default_rng(seed).standard_normal(count))


def entry(name="t", rounds=None, outcome="passed", source="s" * 64, **values):
    made = {
        "test": name,
        "kind": "latency",
        "outcome": outcome,
        "case": CASE,
        "built": {"key": "k", "source_sha256": source},
        "values": values,
    }
    return made | ({} if rounds is None else {"rounds": pack_array(np.asarray(rounds, np.float64))})


def session(*tests, machine=MACHINE, **more):
    return new_record("session", tests=list(tests), machine=machine, **more)


def verdicts(base, new, gates=DEFAULT_GATES, **options):
    found = compare_records(base, new, parse_gates(gates), **options)
    return {(c.test, c.metric): c.verdict for c in found.changes}, found


@pytest.mark.parametrize(
    ("then", "now", "gates", "verdict"),
    [
        (times(1e-3), times(1e-3, seed=1), "p50:5%", "same"),
        (times(1e-3), times(1.2e-3, seed=1), "p50:5%", "worse"),
        (times(1e-3), times(1.03e-3, seed=1), "p50:5%", "changed"),
        (times(1e-3), times(0.8e-3, seed=1), "p50:5%", "better"),
        (times(1e-3, 3), times(2e-3, 3, seed=1), "p50:5%", "undecided"),
        (times(1e-3, 20), 1.01 * times(1e-3, 20, seed=5), "p50:0%", "noise"),
        (times(1e-3), times(1.2e-3, seed=1), "p50:0.5ms", "changed"),
        (times(1e-3), times(1.2e-3, seed=1), "p50:100us", "worse"),
        (times(1e-3), times(1.2e-3, seed=1), "images_per_s:5%", "worse"),
        (times(1e-3), times(0.8e-3, seed=1), "images_per_s:5%", "better"),
        (times(1e-3, 1000), np.r_[times(1e-3, 960, 1), times(3e-3, 40)], "p99:10%", "worse"),
        (times(1e-3, 1000), np.r_[times(1e-3, 960, 1), times(3e-3, 40)], "p50:6%", "same"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_times(then, now, gates, verdict):
    found, comparison = verdicts(session(entry(rounds=then)), session(entry(rounds=now)), gates)
    assert found == {("t", gates.partition(":")[0]): verdict}
    assert comparison.failed == (verdict == "worse")


@pytest.mark.parametrize(
    ("then", "now", "gates", "verdict"),
    [
        ({"modelled_bus": 10}, {"modelled_bus": 10}, "cycles:0", "same"),
        ({"modelled_bus": 10}, {"modelled_bus": 11}, "cycles:0", "worse"),
        ({"modelled_bus": 10}, {"modelled_bus": 9}, "cycles:0", "worse"),
        ({"modelled_bus": 1000}, {"modelled_bus": 1009}, "cycles:1%", "changed"),
        ({"modelled_bus": 10}, {}, "cycles:0", "worse"),
        ({"bits": "a"}, {"bits": "a"}, "bits:0", "same"),
        ({"bits": "a"}, {"bits": "b"}, "bits:0", "worse"),
        ({"instructions": {"mvin": 3}}, {"instructions": {"mvin": 4}}, "instructions:0", "worse"),
        ({"loadgen_offline": 100.0}, {"loadgen_offline": 96.0}, "loadgen:5%", "changed"),
        ({"loadgen_offline": 100.0}, {"loadgen_offline": 90.0}, "loadgen:5%", "worse"),
        ({"loadgen_singlestream": 100.0}, {"loadgen_singlestream": 90.0}, "loadgen:5%", "changed"),
        ({"loadgen_singlestream": 100.0}, {"loadgen_singlestream": 110.0}, "loadgen:5%", "worse"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value),
)
def test_figures_without_noise(then, now, gates, verdict):
    found, comparison = verdicts(session(entry(**then)), session(entry(**now)), gates)
    assert list(found.values()) == [verdict]
    assert comparison.failed == (verdict == "worse")


@pytest.mark.parametrize(
    ("lost", "gained", "verdict"),
    [(0, 0, "same"), (30, 0, "worse"), (30, 25, "noise"), (0, 30, "better"), (300, 295, "noise")],
    ids=["same", "lost", "few", "gained", "as_many"],
)
def test_accuracy_on_the_same_pictures(lost, gained, verdict):
    was = [1] * 700 + [2] * 300
    now = [2] * lost + [1] * (700 - lost) + [1] * gained + [2] * (300 - gained)
    base, new = (
        new_record("sweep", machine=MACHINE, sweep=sweep_record(bests).to_json()) for bests in (was, now)
    )
    found, _ = verdicts(base, new, "top1:0.2")
    assert list(found.values()) == [verdict]


def test_cambricon_s_accuracy_rule_has_no_tolerance():
    base, new = (
        new_record("sweep", machine=MACHINE, sweep=sweep_record([1] * right + [2] * 40).to_json())
        for right in (60, 59)
    )
    assert verdicts(base, new, "top1:0.2")[1].failed is False
    found, comparison = verdicts(base, new, "magicmind")
    assert set(found.values()) == {"worse"}
    assert "top-1 0.595960 was 0.600000" in comparison_table(comparison)
    assert not verdicts(new, base, "magicmind")[1].failed


def test_golden_pictures_are_paired_by_their_hash():
    was = {f"{n:016}": True for n in range(100)}
    now = {name: int(name) >= 20 for name in reversed(was)}
    found, comparison = verdicts(session(entry(right1=was)), session(entry(right1=now)), "top1:0.2")
    assert found[("t", "top1")] == "worse"
    assert comparison.changes[-1].change == pytest.approx(-20)


def test_tests_that_only_one_has():
    base = session(entry("a"), entry("b"), entry("c"), entry("e", outcome="skipped"))
    new = session(entry("a"), entry("c", outcome="skipped"), entry("d"), entry("e"))
    found, comparison = verdicts(base, new)
    assert found == {
        ("b", "test"): "missing",
        ("c", "test"): "missing",
        ("d", "test"): "new",
        ("e", "test"): "new",
    }
    assert len(comparison.failures) == 2
    assert verdicts(base, new, "missing:2")[1].failed is False
    assert verdicts(base, new, "missing:1")[1].failed is True
    assert verdicts(base, new, "missing:any")[1].failed is False


def test_a_test_that_passes_unmeasured_does_not_pass_its_gate():
    base, new = session(entry(rounds=times(1e-3))), session(entry())
    found, comparison = verdicts(base, new, "p50:5%,cycles:0")
    assert found == {("t", "p50"): "worse"}
    assert comparison.changes[0].note == "not measured now"
    assert "t: p50 worse: " in failure_text(comparison)
    # Nor is a failed test blamed twice.
    assert verdicts(base, session(entry(outcome="failed")), "p50:5%")[0] == {("t", "test"): "broken"}
    assert verdicts(new, base, "p50:5%")[0] == {}


def test_gates_that_judged_nothing_are_named():
    base = session(entry(rounds=times(1e-3)))
    _, found = verdicts(base, base, "p50:5%,top1:0.2,instructions:0")
    assert found.idle == ("top1", "instructions")
    for shown in (comparison_table(found), comparison_markdown(found)):
        assert "judged nothing, because no test of both has it: top1, instructions" in shown
    assert comparison_json(found)["idle"] == ["top1", "instructions"]


def test_a_significance_of_the_other_direction_is_none():
    # Most calls are faster, but a few so slow that the mean is worse.
    then, now = times(1e-3), np.r_[times(0.9e-3, 180, seed=1), times(9e-3, 20, seed=2)]
    found, comparison = verdicts(session(entry(rounds=then)), session(entry(rounds=now)), "mean:5%")
    assert comparison.changes[0].p < 1e-6
    assert comparison.changes[0].change > 0.05
    assert found == {("t", "mean"): "noise"}


def test_a_comment_is_never_too_long_for_github():
    names = [f"bench/test_fast.py::test_latency[network_{n}-gemmini_sim-int8-b1]" for n in range(900)]
    base = session(*(entry(name, rounds=times(1e-3, 30), modelled_bus=1) for name in names))
    new = session(
        *(entry(name, rounds=times(1e-3, 30), modelled_bus=1 + (n < 400)) for n, name in enumerate(names))
    )
    _, found = verdicts(base, new)
    text = comparison_markdown(found)
    assert len(text) < 60_000
    assert text.startswith("### topfive: 400 regressions")
    assert text.count("... and ") == 2
    assert "</details>" in text
    assert text.rstrip().endswith("counts must be equal")


def test_a_test_that_fails_now():
    found, comparison = verdicts(session(entry("a")), session(entry("a", outcome="failed")))
    assert found == {("a", "test"): "broken"}
    assert comparison.failed


def test_other_models_are_refused():
    with pytest.raises(RecordError, match="none of the tests of"):
        verdicts(session(entry("a")), session(entry("b")))
    base, new = session(entry()), session(entry(source="t" * 64))
    with pytest.raises(RecordError, match="different models of the same name"):
        verdicts(base, new)
    assert verdicts(base, new, other_model=True)[1].notes[0].startswith("m: sha256 ssss")


def test_times_of_other_machines_are_refused():
    other = {**MACHINE, "fingerprint": "two", "cpu": "another"}
    base = session(entry(rounds=times(1e-3), bits="a"))
    new = session(entry(rounds=times(1e-3), bits="a"), machine=other)
    with pytest.raises(RecordError, match=r"different machines: a processor.*another"):
        verdicts(base, new)
    assert verdicts(base, new, other_machine=True)[0][("t", "p50")] == "same"
    found, comparison = verdicts(base, new, "bits:0")
    assert found == {("t", "bits"): "same"}
    assert comparison.notes[0].startswith("different machines")


def test_versions_that_differ_are_said():
    new = session(entry(), machine={**MACHINE, "versions": {"numpy": "2.1"}})
    assert verdicts(session(entry()), new)[1].notes == ("numpy is 2.1, in the base 2.0",)


# Gates


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("p51:5%", UnknownNameError, "unknown gate metric 'p51'"),
        ("cycels:0", UnknownNameError, "did you mean cycles"),
        ("p50", OptionError, "METRIC:LIMIT"),
        ("", OptionError, "METRIC:LIMIT"),
        ("p50:", OptionError, "the limit is a number"),
        ("p50:-5%", OptionError, "the limit is a number"),
        ("p50:5", OptionError, "a percentage"),
        ("p50:5%,p50:6%", OptionError, "given twice"),
        ("top1:1%", OptionError, "percentage points"),
        ("bits:1", OptionError, "bits are equal or not"),
        ("cycles:1ms", OptionError, "takes a percentage"),
        ("magicmind:5%", OptionError, "the vendor's"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gates_that_do_not_exist(text, error, words):
    with pytest.raises(error, match=words):
        parse_gates(text)


def test_the_gates_of_the_documentation():
    gates = {gate.metric: gate for gate in parse_gates("p50:5%,p99:10%,cycles:0,top1:0.2, p90 : 250us")}
    assert gates["p50"] == Gate("p50", 0.05, relative=True)
    assert gates["top1"] == Gate("top1", 0.2, relative=False)
    assert gates["cycles"].limit == 0
    assert gates["p90"] == Gate("p90", 250 * 1e-6, relative=False)
    assert gates["missing"].limit == 0


@given(st.text(max_size=30))
def test_any_text_is_gates_or_an_error(text):
    try:
        gates = parse_gates(text)
    except (OptionError, UnknownNameError):
        return
    assert {gate.metric for gate in gates} > {"missing"} or text.startswith("missing")


def device(images_per_s, p50=1e-3, **more):
    return {"device_figures": {"images_per_s": images_per_s, "p50": p50, **more}}


@pytest.mark.parametrize(
    ("gate", "figures", "verdict"),
    [
        ("p50:5%", device(1000.0, 1.06e-3), "worse"),
        ("p50:5%", device(1000.0, 1.04e-3), "changed"),
        ("images_per_s:5%", device(949.0), "worse"),
        ("images_per_s:5%", device(1000.0), "same"),
    ],
    ids=["slower", "hardly", "throughput", "same"],
)
def test_a_device_s_own_figures_take_the_place_of_rounds_that_start_its_tool(gate, figures, verdict):
    base = session(entry(rounds=times(2.0), **device(1000.0)))
    found, comparison = verdicts(base, session(entry(rounds=times(9.0), **figures)), gate)
    assert found == {("t", gate.partition(":")[0]): verdict}
    assert "no raw rounds" in comparison.changes[0].note
    assert verdicts(base, session(entry(rounds=times(9.0))), gate)[0] == {}
    assert verdicts(base, session(entry(rounds=times(9.0), **figures)), "p999:5%")[0] == {}


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(940.0, "worse"), (950.0, "changed"), (1060.0, "better"), (1000.0, "same")],
    ids=["below 0.95", "at 0.95", "above 1.05", "same"],
)
def test_cambricon_s_throughput_rule(now, verdict):
    base, new = (session(entry(**device(value))) for value in (1000.0, now))
    found, comparison = verdicts(base, new, "magicmind")
    assert found == {("t", "magicmind images_per_s"): verdict}
    assert comparison.failed == (verdict == "worse")
    assert "magicmind images_per_s" in comparison_table(comparison, everything=True)
    by_rounds = [session(entry(rounds=times(1 / value))) for value in (1000.0, now)]
    assert verdicts(*by_rounds, "magicmind")[0] == {("t", "magicmind images_per_s"): verdict}


# How it is shown


def test_table_markdown_and_json():
    base = session(entry("a|b", rounds=times(1e-3), bits="a"), entry("gone"))
    new = session(entry("a|b", rounds=times(2e-3), bits="a"))
    _, found = verdicts(base, new)
    table = comparison_table(found)
    assert table.splitlines()[-1].startswith("FAILED")
    assert "+100." in table
    assert table.isascii()
    markdown = comparison_markdown(found)
    assert markdown.startswith("### topfive: 2 regressions")
    assert "`a\\|b`" in markdown
    assert "<details>" in markdown
    stored = json.loads(json.dumps(comparison_json(found)))
    assert stored["failed"] is True
    assert stored["failures"] == 2
    assert "a|b: p50 worse: " in failure_text(found)
    _, good = verdicts(base, base)
    assert comparison_markdown(good).startswith("### topfive: no regression")


# The command


def test_the_command(tmp_path):
    write_record(tmp_path, session(entry(rounds=times(1e-3)), created="2026-01-01T00:00:00+00:00"))
    write_record(tmp_path, session(entry(rounds=times(1e-3, seed=1)), created="2026-01-02T00:00:00+00:00"))
    write_record(tmp_path, session(entry(rounds=times(2e-3)), created="2026-01-03T00:00:00+00:00"))
    where = ("--records", str(tmp_path))
    assert run_topfive("compare", "latest~2", "latest~1", *where)[0] == 0
    code, out, _ = run_topfive("compare", "latest~1", *where, "--markdown", str(tmp_path / "a.md"))
    assert code == 1
    assert "worse" in out
    assert "**worse" in (tmp_path / "a.md").read_text()
    code, out, _ = run_topfive("compare", "latest~1", *where, "--json")
    assert (code, json.loads(out)["failed"]) == (1, True)
    for arguments, words in (
        (("latest~9",), "there are 3 session records"),
        (("nobody",), "no record 'nobody'"),
        (("latest~1", "--gate", "p51:1%"), "unknown gate metric"),
        (("latest:photo",), "none is a 'photo'"),
    ):
        code, _, err = run_topfive("compare", *arguments, *where)
        assert code == 2
        assert words in err
        assert "Traceback" not in err
