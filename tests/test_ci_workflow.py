"""The GitHub Actions workflow of docs/ci.md: its scripts are run, on a push and on pull requests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads
from pathlib import Path
from types import SimpleNamespace

import pytest

from test_plugin import CARD, GOLDEN_TEST, SETTINGS, SPEED_TESTS

from github_actions import Caches, Job, value_of

yaml = pytest.importorskip("yaml")

DOCUMENT = Path(__file__).parent.parent / "docs" / "ci.md"
REPOSITORY = "someone/nets"
MEASURE, COMMENT, SHOW = "Measure and compare", "Comment the table", "Show the table"
KEEP = "Keep the baseline"
HAS_GH = shutil.which("gh") is not None
# Every call made thirty times: slower on any machine, whatever else that does. And no test of throughput.
SLOWER = """
import pytest
@pytest.mark.latency
def test_latency(runner, pictures, batch, measure):
    once = runner.callable()
    runner.callable = lambda: lambda data: [once(data) for _ in range(30)][0]
    measure(runner, pictures, batch)
"""


@pytest.fixture(scope="module")
def workflow():
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    return yaml.safe_load(text)


def steps_of(workflow):
    return workflow["jobs"]["topfive"]["steps"]


def event(name, ref="refs/heads/main", run="1", repository=REPOSITORY):
    """The github context of a push, or of a pull request whose branch is in `repository`."""
    found = {"event_name": name, "ref": ref, "repository": REPOSITORY, "run_id": run, "run_attempt": "1"}
    if name == "pull_request":
        found["event"] = {"number": 7, "pull_request": {"head": {"repo": {"full_name": repository}}}}
    return found | {"token": "a-token"}


# Its form


def test_every_event_that_it_names_may_read_and_comment_only(workflow):
    # YAML 1.1 reads `on` as true; GitHub does not.
    triggers = workflow[True]
    assert triggers["push"] == {"branches": ["main"]}
    assert {"pull_request", "schedule", "workflow_dispatch"} < triggers.keys()
    assert "pull_request_target" not in triggers
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_no_script_contains_what_a_pull_request_can_write(workflow):
    for step in steps_of(workflow):
        assert "${{" not in step.get("run", ""), step


def test_the_baseline_is_restored_before_and_kept_after_measuring(workflow):
    names = [step.get("name") for step in steps_of(workflow)]
    assert names.index("The baseline") < names.index(MEASURE) < names.index(KEEP) < names.index(COMMENT)
    restored, kept = (
        next(step["with"] for step in steps_of(workflow) if step.get("name") == name)
        for name in ("The baseline", KEEP)
    )
    assert kept["key"].startswith(restored["restore-keys"])
    assert kept["path"] == restored["path"]
    # A key is written once only: each run, and each of its attempts, needs its own.
    assert "github.run_id" in kept["key"]
    assert "github.run_attempt" in kept["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("github.ref == 'refs/heads/main'", True),
        ("github.event.pull_request.head.repo.full_name == github.repository", False),
        ("!cancelled() && hashFiles('a') != ''", True),
        ("steps.one.outputs.two || 'none'", "none"),
        ("github.event.number", None),
    ],
    ids=["equal", "null", "functions", "default", "absent"],
)
def test_expressions(text, expected):
    functions = {"cancelled": lambda: False, "hashFiles": lambda *names: "b"}
    assert value_of(text, {"github": event("push"), "steps": {}}, functions) == expected


# What it does


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A user's project with one model, its goldens and three tests, on main."""
    folder = tmp_path_factory.mktemp("project")
    texts = {
        "pytest.ini": "[pytest]\naddopts = --cards cards\n",
        "cards/tiny.toml": CARD.format(
            name="tiny", tags='"mine"', flags="", file="pocket_fire.onnx", sha256="", count=3
        ),
        "bench/suite.toml": SETTINGS.replace("[1, 2]", "[1]").replace("= 3", "= 30"),
        "bench/test_right.py": GOLDEN_TEST,
        "bench/test_fast.py": SPEED_TESTS,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    update_golden(folder, tmp_path_factory.mktemp("golden"))
    return folder


def clean_environment():
    own = ("TOPFIVE", "PYTEST", "XDG", "GITHUB", "GH_", "CI")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def update_golden(folder, home):
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gemmini_sim and golden", "--update-golden"]
    done = subprocess.run(
        [*command, "--no-record", "-p", "no:cacheprovider"],
        cwd=folder,
        env=clean_environment() | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def github(workflow, project, tmp_path_factory):
    """Runs the workflow: github.run(event, files=project). Main has been pushed twice."""
    caches = Caches()

    def run(what, files=project, kept=caches, **environment):
        folder = tmp_path_factory.mktemp("job")
        job = Job(steps_of(workflow), kept, folder, what)
        return job.run(files, clean_environment() | environment)

    pushed = [run(event("push", run=number)) for number in ("1", "2")]
    return SimpleNamespace(run=run, caches=caches, pushed=pushed)


def changed(project, tmp_path, files):
    """A copy of the project with some other files."""
    copy = tmp_path / "changed"
    shutil.copytree(project, copy)
    for name, text in files.items():
        (copy / name).write_text(text)
    return copy


def failures(ran):
    suite = ElementTree.parse(ran.workspace / "topfive.xml").getroot()
    found = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    return {name: failure.get("message") for name, failure in found.items() if failure is not None}


@pytest.mark.slow
def test_a_push_measures_and_keeps_the_baseline(github):
    for number, ran in enumerate(github.pushed, 1):
        assert ran.passed, ran.output
        assert ran.outcomes[KEEP] == "success"
        assert ran.outcomes[COMMENT] == ran.outcomes[SHOW] == "skipped"
        assert "3 passed" in ran.output
        records = [name for name in ran.uploaded if name.startswith(".topfive/records/")]
        assert len(records) == number
        assert "topfive.xml" in ran.uploaded
    keys = [key for key, _, _ in github.caches.kept]
    assert [key for key in keys if key.startswith("topfive-records-")] == [
        "topfive-records-1-1",
        "topfive-records-2-1",
    ]
    # The same versions and models: the second run finds the artifacts, and keeps no second copy of them.
    (artifacts,) = (key for key in keys if key.startswith("topfive-artifacts-"))
    assert re.fullmatch(r"topfive-artifacts-[0-9a-f]{16}-[0-9a-f]{64}", artifacts)


@pytest.mark.slow
def test_a_pull_request_that_changes_nothing_passes(github, comments):
    ran = github.run(event("pull_request", "refs/pull/7/merge"), **comments.environment)
    # Times can differ on a busy machine even so: the gates without noise cannot.
    assert "topfive-compare[latest]" in (ran.workspace / "topfive.xml").read_text()
    problems = failures(ran)
    assert problems.keys() <= {"topfive-compare[latest]"}
    assert not re.search("missing|broken|bits|modelled|top1", "".join(problems.values()))
    assert ran.outcomes[KEEP] == "skipped"
    assert ran.summary == (ran.workspace / "topfive.md").read_text()


@pytest.mark.slow
def test_planted_regressions_fail_and_are_in_the_table(github, project, tmp_path, comments):
    card = (project / "cards" / "tiny.toml").read_text()
    cut = changed(
        project,
        tmp_path,
        {
            "cards/tiny.toml": card + '\n[calibration]\nset = "pocket100"\ncount = 2\n',
            "bench/test_fast.py": SLOWER,
        },
    )
    update_golden(cut, tmp_path / "home")
    ran = github.run(event("pull_request", "refs/pull/7/merge"), cut, **comments.environment)
    assert not ran.passed
    assert ran.outcomes[MEASURE] == "failure"
    (problem,) = failures(ran).values()
    for words in (r"test_golden\[.*bits worse", r"test_latency\[.*p50 worse", r"test_throughput\[.*missing"):
        assert re.search(words, problem), problem
    table = (ran.workspace / "topfive.md").read_text()
    assert table.startswith("### topfive: 3 regressions")
    assert ran.summary == table
    assert ran.outcomes[SHOW] == "success"
    assert ran.outcomes[COMMENT] == ("success" if HAS_GH else "failure")
    assert [one["body"] for one in comments.kept[2:]] == ([table] if HAS_GH else [])
    assert "topfive.xml" in ran.uploaded


@pytest.mark.slow
def test_a_fork_gets_no_comment_but_a_summary(github):
    fork = event("pull_request", "refs/pull/7/merge", repository="stranger/nets")
    ran = github.run(fork)
    assert ran.outcomes[COMMENT] == "skipped"
    assert ran.summary.startswith("### topfive")


@pytest.mark.slow
def test_without_a_baseline_the_run_says_so(github):
    ran = github.run(event("pull_request", "refs/pull/7/merge"), kept=Caches())
    assert ran.passed
    assert "::warning title=topfive::no baseline" in ran.output
    assert ran.outcomes[COMMENT] == ran.outcomes[SHOW] == "skipped"


def test_fifty_records_are_kept(workflow, tmp_path):
    (step,) = (step for step in steps_of(workflow) if step.get("name") == "Keep the newest records")
    folder = tmp_path / ".topfive" / "records"
    folder.mkdir(parents=True)
    names = [f"20260101T0000{n:02}.000000Z-session-{n:08x}.json" for n in range(60)]
    for name in names:
        (folder / name).touch()
    for _ in range(2):
        subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, check=True)
        assert sorted(path.name for path in folder.iterdir()) == names[10:]


# The comment: the real `gh`, with a server of our own in GitHub's place.


@pytest.fixture
def comments():
    """GitHub's comments of pull request 7: one of another workflow; `gh` reaches them by proxy."""
    kept = [
        {"id": 1, "user": {"login": "github-actions[bot]"}, "body": "coverage 99 %"},
        {"id": 2, "user": {"login": "a-person"}, "body": "### topfive: I like it"},
    ]
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            path = self.path.partition("github.localhost")[2].partition("?")[0]
            length = int(self.headers.get("Content-Length") or 0)
            body = loads(self.rfile.read(length))["body"] if length else ""
            seen.append((self.command, path, self.headers.get("Authorization")))
            if self.command == "POST":
                kept.append({"id": 3, "user": {"login": "github-actions[bot]"}, "body": body})
            if self.command == "PATCH":
                next(one for one in kept if path.endswith(f"/{one['id']}"))["body"] = body
            data = dumps(kept if self.command == "GET" else kept[-1]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = f"http://127.0.0.1:{server.server_address[1]}"
    environment = {"GH_HOST": "github.localhost", "http_proxy": proxy, "HTTP_PROXY": proxy}
    yield SimpleNamespace(kept=kept, seen=seen, environment=environment)
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(not HAS_GH, reason="gh is not installed")
def test_the_comment_is_made_once_and_then_edited(workflow, comments, tmp_path):
    (step,) = (step for step in steps_of(workflow) if step.get("name") == COMMENT)
    job = Job([step], Caches(), tmp_path, event("pull_request"))
    job.workspace.mkdir()
    for body in ("### topfive: 3 regressions\n", "### topfive: no regression\n"):
        (job.workspace / "topfive.md").write_text(body)
        ran = job.run(tmp_path, clean_environment() | comments.environment)
        assert ran.passed, ran.output
        assert [one["body"] for one in comments.kept] == ["coverage 99 %", "### topfive: I like it", body]
        shutil.rmtree(job.home)
    place = f"/repos/{REPOSITORY}/issues"
    assert [(method, path) for method, path, _ in comments.seen] == [
        ("GET", f"{place}/7/comments"),
        ("POST", f"{place}/7/comments"),
        ("GET", f"{place}/7/comments"),
        ("PATCH", f"{place}/comments/3"),
    ]
    assert {token for _, _, token in comments.seen} == {"token a-token"}
