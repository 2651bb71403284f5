"""Trace files: what the format asks of an event, nesting, reading and writing."""

from __future__ import annotations

import copy
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import TraceError
from topfive.trace.events import (
    DIGITS,
    check_place,
    complete,
    description,
    process_names,
    thread_names,
    trace_text,
    write_trace,
)
from topfive.trace.nesting import nested
from topfive.trace.validation import problems, read_trace

STRICT = 10.0**-DIGITS / 2
LANE = (1, 1)


@st.composite
def trees(draw: st.DrawFn, start: float = 0.0, length: float = 1e6, depth: int = 3) -> list[dict[str, Any]]:
    """Complete events that nest, as a list of events in any order; each knows its parent's name."""
    events: list[dict[str, Any]] = []

    def fill(begin: float, end: float, left: int, parent: str) -> None:
        count = draw(st.integers(0, 3)) if left else 0
        cuts = sorted(draw(st.lists(st.floats(begin, end), min_size=2 * count, max_size=2 * count)))
        for first, last in zip(cuts[::2], cuts[1::2], strict=True):
            if round(last - first, DIGITS) < 0.01:
                continue
            name = f"e{len(events)}"
            events.append(complete(name, "Node", LANE, first, last - first, {"parent": parent}))
            fill(first + 0.002, last - 0.002, left - 1, name)

    fill(start, start + length, depth, "")
    return draw(st.permutations(events))


def good() -> list[dict[str, Any]]:
    return [
        description({"model": "net"}),
        *process_names(1, "host", "net"),
        *thread_names(1, {1: "run"}),
        complete("outer", "Session", LANE, 0, 10, {}),
        complete("inner", "Node", LANE, 1, 2.5, {"op_name": "Conv"}),
        {"ph": "B", "name": "b", "ts": 1, "pid": 1, "tid": 2},
        {"ph": "E", "ts": 2, "pid": 1, "tid": 2},
        {"ph": "i", "name": "i", "ts": 1, "pid": 1, "tid": 2, "s": "g"},
        {"ph": "C", "name": "c", "ts": 1, "pid": 1, "args": {"bytes": 3}},
        {"ph": "b", "name": "a", "cat": "x", "id": 1, "ts": 1, "pid": 1, "tid": 2},
    ]


# What each fault does to event `number` of `good()`, and a word of the message.
FAULTS: dict[str, tuple[int, dict[str, Any], str]] = {
    "no_phase": (7, {"ph": None}, "'ph' is None"),
    "unknown_phase": (7, {"ph": "Z"}, "'ph' is 'Z'"),
    "phase_of_two": (7, {"ph": "XX"}, "'ph'"),
    "phase_list": (7, {"ph": ["X"]}, "'ph'"),
    "name_number": (7, {"name": 3}, "'name'"),
    "ts_text": (7, {"ts": "1"}, "'ts'"),
    "ts_missing": (7, {"ts": None}, "'ts'"),
    "ts_infinite": (7, {"ts": float("inf")}, "'ts'"),
    "ts_huge": (7, {"ts": 10**400}, "'ts'"),
    "ts_bool": (7, {"ts": True}, "'ts'"),
    "dur_negative": (7, {"dur": -1}, "'dur'"),
    "dur_missing": (7, {"dur": None}, "'dur'"),
    "dur_nan": (7, {"dur": float("nan")}, "'dur'"),
    "pid_text": (7, {"pid": "1"}, "'pid'"),
    "pid_float": (7, {"pid": 1.5}, "'pid'"),
    "tid_missing": (7, {"tid": None}, "'tid'"),
    "cat_list": (7, {"cat": ["a"]}, "'cat'"),
    "args_list": (7, {"args": []}, "'args'"),
    "args_text": (7, {"args": "x"}, "'args'"),
    "instant_scope": (10, {"s": "x"}, "'s'"),
    "counter_text": (11, {"args": {"bytes": "3"}}, "counter"),
    "counter_empty": (11, {"args": {}}, "counter"),
    "async_id": (12, {"id": ...}, "'id'"),
    "process_name": (1, {"args": {"name": 3}}, "args.name"),
    "sort_index": (3, {"args": {"sort_index": "1"}}, "args.sort_index"),
    "thread_name": (4, {"args": {}}, "args.name"),
    "end_alone": (8, {"ph": "i", "name": "x"}, "no begin event"),
    "backwards": (9, {"ts": 0.5}, "back in time"),
}


def test_the_good_trace_has_no_problem() -> None:
    assert problems(good(), STRICT) == []
    assert problems({"traceEvents": good(), "otherData": {}}, STRICT) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_its_event(fault: str) -> None:
    number, change, words = FAULTS[fault]
    events = good()
    events[number] = {k: v for k, v in {**events[number], **change}.items() if v is not ...}
    found = problems(events, STRICT)
    assert len(found) == 1
    assert words in found[0]
    assert f"event {number}" in found[0] or "process 1, thread 2" in found[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "a number"),
        ("x", "text"),
        (None, "null"),
        ({}, "no array 'traceEvents'"),
        ({"traceEvents": {}}, "no array 'traceEvents'"),
        ([3], "event 0 is a number"),
        ([[]], "event 0 is an array"),
    ],
    ids=["number", "text", "null", "object", "events_object", "event_number", "event_array"],
)
def test_what_is_no_array_of_events(value: Any, words: str) -> None:
    assert any(words in line for line in problems(value))


@given(trees())
def test_events_that_nest_are_good_and_found_again(events: list[dict[str, Any]]) -> None:
    assert problems(events, STRICT) == []
    roots = nested(events).get(LANE, [])
    found = [node for root in roots for node in root.walk()]
    assert len(found) == len(events)
    for node in found:
        end = node.event["ts"] + node.duration
        for child in node.children:
            assert child.event["args"]["parent"] == node.event["name"]
            assert child.event["ts"] >= node.event["ts"] - STRICT
            assert child.event["ts"] + child.duration <= end + STRICT
        assert sum(child.duration for child in node.children) <= node.duration + STRICT * (1 + len(events))
    assert all(root.event["args"]["parent"] == "" for root in roots)


@given(trees(), st.data())
def test_an_event_that_outlasts_what_it_lies_in_is_a_problem(
    events: list[dict[str, Any]], data: st.DataObject
) -> None:
    inner = [event for event in events if event["args"]["parent"]]
    if not inner:
        return
    event = data.draw(st.sampled_from(inner))
    parent = next(e for e in events if e["name"] == event["args"]["parent"])
    event["dur"] = parent["ts"] + parent["dur"] - event["ts"] + 1.0
    assert any("ends after it" in line for line in problems(events, STRICT))


def test_times_cut_to_whole_microseconds_are_forgiven_by_default() -> None:
    events = [
        complete("run", "Session", LANE, 10, 5, {}),
        complete("node", "Node", LANE, 11, 6, {}),
    ]
    assert problems(events) == []
    assert problems(events, STRICT)


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.floats(0, 1e6))
def test_neighbours_stay_neighbours_when_rounded(start: float, first: float, second: float) -> None:
    events = [
        complete("a", "Node", LANE, start, first, {}),
        complete("b", "Node", LANE, start + first, second, {}),
    ]
    assert problems(events, 1e-6) == []
    assert all(event["dur"] >= 0 for event in events)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_trace(good(), path)
    trace = read_trace(path)
    assert list(trace.events) == good()
    assert trace.about == {"model": "net"}
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    "ending", ["]", "", ",", ",\n", "\n"], ids=["whole", "cut", "comma", "line", "newline"]
)
def test_the_closing_bracket_may_be_missing(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("[\n" + ",\n".join(map(json.dumps, good())) + ending)
    assert list(read_trace(path).events) == good()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'[{"ph": "X"', "is not JSON"),
        (b"[1, 2", "no trace of the Trace Event Format"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "no array 'traceEvents'"),
        (b'[{"ph": "X", "name": "n", "pid": 1, "tid": 1, "ts": 0}]', "event 0 (n): 'dur'"),
    ],
    ids=["empty", "brace", "half", "numbers", "binary", "deep", "object", "no_duration"],
)
def test_a_malformed_file_is_named_with_its_first_problem(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert str(error.value).startswith(str(path))
    assert words in error.value.message


def test_many_problems_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{"ph": "Z"}] * 40))
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert error.value.details.splitlines()[-1] == "  and 28 more"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "none.json")


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("before")
    with pytest.raises(ValueError, match="JSON"):
        write_trace([complete("n", "Node", LANE, 0, 1, {"x": float("nan")})], path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
    with pytest.raises(TraceError, match="cannot be written"):
        write_trace(good(), tmp_path / "none" / "t.json")


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_trace(good(), path)
        text = os.read(reader, 1 << 20).decode()
    finally:
        os.close(reader)
    assert text == trace_text(good())
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_places_for_a_trace(tmp_path: Path) -> None:
    check_place(tmp_path / "t.json")
    with pytest.raises(TraceError, match="it is a folder"):
        check_place(tmp_path)
    with pytest.raises(TraceError, match="does not exist"):
        check_place(tmp_path / "none" / "t.json")


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=8)
)
def test_any_value_in_any_field_is_judged_without_a_crash(value: Any) -> None:
    for key in ("ph", "name", "ts", "dur", "pid", "tid", "cat", "args"):
        events = copy.deepcopy(good())
        for event in events:
            event[key] = value
        assert all(isinstance(line, str) for line in problems(events))
