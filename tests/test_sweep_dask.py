"""Sweeps on a Dask cluster: real clusters of two worker processes, whose workers are killed."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from topfive.errors import SweepError

from sweeps import REPOSITORY, Sweeping
from topfive_command import run_topfive

distributed = pytest.importorskip("distributed")

SLOW = "slow:0.05"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep_cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    sweeping = Sweeping(tmp_path_factory.mktemp("undisturbed"), cache)
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))
    assert code == 0, err
    return sweeping.numbers()


@pytest.fixture
def sweeping(tmp_path, cache, undisturbed):
    return Sweeping(tmp_path, cache)


@pytest.fixture
def cluster(sweeping, tmp_path, monkeypatch):
    """A function that starts a cluster of two worker processes with a fault."""
    clusters = []

    def start(fault=""):
        for name, value in (
            ("PYTHONPATH", str(REPOSITORY / "tests" / "faults")),
            ("SWEEP_FAULT", fault),
            ("SWEEP_FAULT_MARK", str(sweeping.mark)),
            ("TOPFIVE_CACHE", str(tmp_path / "cache of the workers")),
        ):
            monkeypatch.setenv(name, value)
        made = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=tmp_path,
        )
        clusters.append(made)
        return made

    yield start
    for made in clusters:
        made.close()


def on(cluster):
    return ("--engine", "dask", "--scheduler", cluster.scheduler_address)


@pytest.mark.slow
def test_a_cluster_gives_the_same_numbers(sweeping, undisturbed, cluster, tmp_path):
    started = cluster()
    code, out, err = sweeping.run(*sweeping.command(*on(started)))
    assert code == 0, err
    assert "pocket_fire cpu" in " ".join(out.split())
    assert sweeping.numbers() == undisturbed
    kept = sweeping.record()
    assert kept.timing["workers"] == 2
    # Crops are kept where they were made, and nothing stays behind in the workers.
    assert list((tmp_path / "cache of the workers").glob("crops/*/*/crops.npy"))
    with distributed.Client(started, set_as_default=False) as client:
        left = client.run(lambda dask_worker: [name for name in dask_worker.plugins if "topfive" in name])
    assert set(map(tuple, left.values())) == {()}


@pytest.mark.slow
def test_a_lost_workers_shards_run_elsewhere(sweeping, undisturbed, cluster):
    started = cluster(SLOW)
    process = sweeping.start(*sweeping.command(*on(started)))
    sweeping.wait_for(2, process)
    os.kill(next(iter(started.workers.values())).process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [("kill", "shard 2: its worker was lost 3 times"), ("raise", "shard 2: ZeroDivisionError: made to fail")],
)
def test_a_poisoned_shard_is_given_up_after_three_tries(sweeping, undisturbed, cluster, kind, message):
    code, _, err = sweeping.run(*sweeping.command(*on(cluster(f"{kind}:{sweeping.name(7)}"))))
    assert code == 2
    assert f"1 shard could not be run, the rest is kept: {message}" in err
    assert "Traceback" not in err
    assert sorted(sweeping.done()) == [0, 1, 3, 4, 5, 6, 7]
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))  # the engine is no part of the numbers
    assert code == 0, err
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
def test_results_lost_after_they_were_told_of(sweeping, undisturbed, cluster, monkeypatch):
    from topfive.sweep import dask_engine

    started, killed = cluster(), []
    run, result = dask_engine._Run, dask_engine._Run._result

    def lose_the_others_at_the_first(self, future):
        found = result(self, future)
        if not killed:
            others = [one for one in self.client.futures.values() if one is not future._state]
            wait_until(lambda: len(others) == 7 and all(one.status == "finished" for one in others))
            for worker in started.workers.values():
                killed.append(worker.process.pid)
                os.kill(killed[-1], signal.SIGKILL)
            wait_until(lambda: all(one.status == "lost" for one in others))
        return found

    monkeypatch.setattr(run, "_result", lose_the_others_at_the_first)
    for name, value in (("TOPFIVE_CACHE", sweeping.cache), ("TOPFIVE_RECORDS", sweeping.records)):
        monkeypatch.setenv(name, str(value))
    code, _, err = run_topfive(*sweeping.command(*on(started))[1:])
    assert (code, len(killed)) == (0, 2), err
    assert sweeping.numbers() == undisturbed


def wait_until(true):
    for _ in range(12_000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it does not come")


@pytest.mark.slow
def test_the_command_that_is_killed_goes_on_elsewhere(sweeping, undisturbed, cluster):
    started = cluster(SLOW)
    process = sweeping.start(*sweeping.command(*on(started)))
    sweeping.wait_for(2, process)
    process.kill()
    process.wait()
    kept = sweeping.done()
    assert 2 <= len(kept) < 8
    code, _, err = sweeping.run(*sweeping.command(*on(started)))
    assert code == 0, err
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
def test_pictures_behind_a_url(sweeping, undisturbed, cluster):
    url = f"file://{sweeping.set}"
    command = [url if part == str(sweeping.set) else part for part in sweeping.command(*on(cluster()))]
    code, _, err = sweeping.run(*command)
    assert code == 0, err
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
def test_a_scheduler_that_is_lost(sweeping, undisturbed, tmp_path):
    crew = [sweeping.start("distributed.cli.dask_scheduler", "--port", "0", "--dashboard-address", ":0",
                           "--scheduler-file", str(tmp_path / "scheduler.json"))]  # fmt: skip
    try:
        while not (tmp_path / "scheduler.json").is_file():
            assert crew[0].poll() is None, crew[0].communicate()
            time.sleep(0.05)
        place = ("--scheduler-file", str(tmp_path / "scheduler.json"), "--local-directory", str(tmp_path))
        worker = sweeping.start("distributed.cli.dask_worker", *place, "--nthreads", "1", fault=SLOW)
        crew.append(worker)
        using = ("--engine", "dask", "--scheduler", str(tmp_path / "scheduler.json"))
        process = sweeping.start(*sweeping.command(*using))
        sweeping.wait_for(2, process)
        crew[0].kill()
        _, err = process.communicate(timeout=300)
    finally:
        for one in crew:
            one.kill()
            one.communicate()
    assert process.returncode == 2
    assert "was lost: start it again, then the same command goes on" in err
    assert len(sweeping.done()) >= 2
    assert sweeping.run(*sweeping.command("--workers", "1"))[0] == 0
    assert sweeping.numbers() == undisturbed


def test_a_scheduler_that_does_not_answer(monkeypatch):
    from topfive.sweep import dask_engine

    monkeypatch.setattr(dask_engine, "CONNECT_SECONDS", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SweepError, match=f"no Dask scheduler answers at {address} within 1 s: start one"):
            dask_engine.DaskEngine(address).run(None, {}, [], print)
    with pytest.raises(SweepError, match="no Dask scheduler answers at nonsense://x"):
        dask_engine.DaskEngine("nonsense://x").run(None, {}, [], print)
    with pytest.raises(SweepError, match=r"no Dask scheduler has written /no/such/file\.json"):
        dask_engine.DaskEngine("/no/such/file.json").run(None, {}, [], print)


def test_an_artifact_that_arrives_damaged_is_refused(tmp_path):
    from topfive.sweep.dask_engine import ArtifactPlugin, packed_folder

    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/model.onnx").write_bytes(b"model")
    data = packed_folder(tmp_path)
    assert packed_folder(tmp_path) == data
    (tmp_path / "inner/model.onnx").touch()
    assert packed_folder(tmp_path) == data  # what is in it counts, not when it was written

    class Worker:
        address = "tcp://worker"

    with pytest.raises(SweepError, match="arrived damaged at tcp://worker"):
        ArtifactPlugin("0" * 64, data).setup(Worker)
