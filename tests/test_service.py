"""Operations: JSON in, JSON out, in the process and over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_records import made
from topfive.records import write_record
from topfive.service.http import ServeError, is_loopback, make_app, open_socket, serve
from topfive.service.operations import answer, operations

from topfive_command import run_topfive

TOKEN = "a token that nobody guesses"


@pytest.fixture
def shelf(tmp_path):
    for day in (1, 2):
        write_record(tmp_path, made(created=f"2026-01-0{day}T12:00:00+00:00", identity=f"day{day}"))
    return tmp_path


def test_every_command_is_an_operation():
    known = operations()
    assert {
        "run",
        "build",
        "compare",
        "records list",
        "cache prune",
        "gemmini cycles",
        "sweep",
    } <= known.keys()
    assert not {"api", "serve"} & known.keys()
    scenario = known["scenario"].schema()
    assert scenario["required"] == ["model", "scenario"]
    assert scenario["properties"]["scenario"]["type"] == "array"
    assert scenario["properties"]["time"]["type"] == "number"
    assert scenario["properties"]["submission"]["type"] == "boolean"
    assert known["compare"].schema()["required"] == ["base"]
    assert all("json" not in one.parameters for one in known.values())


def test_good_answers(shelf):
    found = answer({"action": "records list", "records": str(shelf)})
    assert found["return"] == 0
    assert [one["id"] for one in found["result"]["records"]] == ["day1", "day2"]
    compared = answer(
        {"action": "compare", "base": "day1", "new": "day2", "records": str(shelf), "all": True}
    )
    assert (compared["return"], compared["result"]["failed"]) == (0, False)


def test_a_failed_comparison_is_1(shelf):
    write_record(shelf, made(name="t", identity="day3", tests=[]))
    test = {"test": "t", "kind": "golden", "outcome": "failed"}
    write_record(shelf, made(identity="day4", tests=[test]))
    found = answer({"action": "compare", "base": "day1", "new": "day4", "records": str(shelf)})
    assert found["return"] == 1
    assert found["result"]["failed"] is True


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (None, "a JSON object"),
        ([], "a JSON object"),
        ({"model": "m"}, "a JSON object"),
        ({"action": "nothing"}, "unknown action 'nothing'"),
        ({"action": "serve"}, "unknown action"),
        ({"action": "models", "modle": "m"}, "unknown parameter 'modle'"),
        ({"action": "pair", "a": 1, "b": "x", "batch": "many"}, "unknown parameter 'a'"),
        ({"action": "pair", "first": "x", "second": "y", "batch": "many"}, "'batch' is not an integer"),
        ({"action": "pair", "first": "x", "second": "y", "no_record": "yes"}, "'no_record' is not a boolean"),
        ({"action": "pair", "first": {}, "second": "y"}, "'first' is not a string"),
        ({"action": "pair", "first": ["x", "z"], "second": "y"}, "'first' is not a string"),
        ({"action": "records show", "record": "--help"}, "no record '--help'"),
        ({"action": "compare"}, "BASE"),
        ({"action": "records show", "record": "a\0b"}, "cannot be passed on"),
        ({"action": "records show", "record": "\ud800"}, "cannot be passed on"),
        ({"action": "records show", "record": "x" * 3_000_000}, "cannot be passed on"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_requests_are_2(request_, words, shelf, monkeypatch):
    monkeypatch.setenv("TOPFIVE_RECORDS", str(shelf))
    found = answer(request_)
    assert found["return"] == 2
    assert words in found["error"]
    assert "Traceback" not in found["error"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_answered(value):
    assert answer({"action": "models", "name": {"a": value}})["return"] == 2
    assert answer(value)["return"] == 2


def test_a_request_that_takes_too_long_is_stopped():
    assert answer({"action": "targets"}, time_limit=0.01)["return"] == 3


def test_the_command(shelf):
    request = {"action": "records_list", "records": str(shelf), "since": "2026-01-02"}
    code, out, _ = run_topfive("api", json.dumps(request))
    assert (code, len(json.loads(out)["result"]["records"])) == (0, 1)
    assert run_topfive("api", text=json.dumps(request))[:2] == (code, out)
    code, out, _ = run_topfive("api", "{")
    assert (code, json.loads(out)["return"]) == (2, 2)


# HTTP


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
    ids=["v4", "v6", "name", "all", "other"],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


def test_beyond_loopback_a_token_is_needed():
    pytest.importorskip("fastapi")
    for token in ("", "short"):
        with pytest.raises(ServeError, match="TOPFIVE_TOKEN"):
            serve("0.0.0.0", 0, token=token, time_limit=None, told=print)


def test_a_port_in_use_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match="another program uses this port"):
            open_socket("127.0.0.1", port)
        code, _, err = run_topfive("serve", "--port", port)
        assert code == 2
        assert "port" in err or "not installed" in err


def test_the_address_of_version_6_is_a_url(monkeypatch):
    pytest.importorskip("uvicorn")
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    told = []
    try:
        open_socket("::1", 0).close()
    except ServeError as error:
        pytest.skip(f"no IPv6 here: {error}")
    serve("::1", 0, token="", time_limit=None, told=told.append)
    assert urllib.request.Request(told[0]).host.startswith("[::1]:")


@pytest.fixture
def client():
    pytest.importorskip("fastapi")
    testing = pytest.importorskip("fastapi.testclient")
    return lambda token="", host="http://127.0.0.1": testing.TestClient(make_app(token=token), base_url=host)


def test_the_same_operations_over_http(client, shelf):
    here = client()
    found = here.post("/api", json={"action": "records list", "records": str(shelf)}).json()
    assert [one["id"] for one in found["result"]["records"]] == ["day1", "day2"]
    assert here.post("/api/records/list", json={"records": str(shelf)}).json() == found
    wrong = here.post("/api", json={"action": "nothing"})
    assert (wrong.status_code, wrong.json()["return"]) == (400, 2)
    broken = here.post("/api", content="{", headers={"content-type": "application/json"})
    assert broken.status_code == 400
    listed = here.post("/api/models", content="[1]", headers={"content-type": "application/json"})
    assert listed.status_code == 400
    described = here.get("/openapi.json").json()
    assert len(described["paths"]) == len(operations()) + 1
    page = here.get("/docs").text
    assert "records list" in page
    assert "<script" not in page
    assert "https://" not in page


def test_who_is_answered(client):
    body = {"action": "nothing"}
    assert client(host="http://evil.example").post("/api", json=body).status_code == 403
    assert client().post("/api", content=json.dumps(body)).status_code == 415
    guarded = client(token=TOKEN, host="http://evil.example")
    assert guarded.post("/api", json=body).status_code == 401
    assert guarded.get("/docs").status_code == 401
    for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN} "):
        answered = guarded.post("/api", json=body, headers={"Authorization": wrong.strip() + "?"})
        assert answered.status_code == 401
    right = guarded.post("/api", json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert right.status_code == 400


def test_a_real_server(shelf):
    pytest.importorskip("uvicorn")
    environment = {**os.environ, "TOPFIVE_RECORDS": str(shelf)}
    command = [sys.executable, "-m", "topfive", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = process.stdout.readline().split()[0]
        request = urllib.request.Request(
            f"{address}/api/records/list", b"{}", {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert len(json.load(response)["result"]["records"]) == 2
        request = urllib.request.Request(f"{address}/api", b"{}", {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=60)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
