"""Sweeps that are killed (really: SIGKILL) go on to exactly the same numbers: nothing twice, nothing lost."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from sweeps import Sweeping, gone

SLOW = "slow:0.03"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep_cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    """The numbers of a sweep that nothing happened to."""
    sweeping = Sweeping(tmp_path_factory.mktemp("undisturbed"), cache)
    code, out, err = sweeping.run(*sweeping.command("--workers", "1"))
    assert code == 0, err
    assert "pocket_fire cpu" in " ".join(out.split())
    return sweeping.numbers()


@pytest.fixture
def sweeping(tmp_path, cache, undisturbed):
    return Sweeping(tmp_path, cache)


# topfive sweep


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--workers", "2"), id="packed"),
        pytest.param(("--workers", "2", "--no-cache"), id="no-cache", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_is_replaced(sweeping, undisturbed, options):
    process = sweeping.start(*sweeping.command(*options), fault=SLOW)
    workers = {shard["about"]["process"] for shard in sweeping.wait_for(2, process).values()}
    os.kill(min(workers), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert sweeping.numbers() == undisturbed
    assert sweeping.record().timing["workers"] >= 2


def test_a_worker_that_dies_in_a_shard_loses_only_that_shard(sweeping, undisturbed):
    code, _, err = sweeping.run(*sweeping.command("--workers", "2"), fault=f"once:{sweeping.name(7)}")
    assert code == 0, err
    assert sweeping.mark.exists()
    assert sweeping.numbers() == undisturbed


def test_the_command_that_is_killed_goes_on(sweeping, undisturbed):
    process = sweeping.start(*sweeping.command("--workers", "2"), fault=SLOW)
    before = sweeping.wait_for(3, process)
    process.kill()
    process.wait()
    for worker in {shard["about"]["process"] for shard in before.values()}:
        assert gone(worker)
    kept = sweeping.done()
    assert 3 <= len(kept) < 8
    # Were a shard that is done run again, its pictures would now fail it.
    again = ";".join(f"raise:{sweeping.name(3 * number)}" for number in kept)
    code, _, err = sweeping.run(*sweeping.command("--workers", "2"), fault=again)
    assert code == 0, err
    assert sweeping.numbers() == undisturbed
    assert sweeping.done() == {}


@pytest.mark.slow
def test_killed_again_and_again(sweeping, undisturbed):
    for round_ in range(1, 4):
        process = sweeping.start(*sweeping.command("--workers", "1"), fault=SLOW)
        sweeping.wait_for(2 * round_, process)
        process.kill()
        process.wait()
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))
    assert code == 0, err
    assert sweeping.numbers() == undisturbed


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param("kill", "its worker was lost (signal 9)", id="killed"),
        pytest.param("raise", "ZeroDivisionError: made to fail", id="raised", marks=pytest.mark.slow),
    ],
)
def test_a_poisoned_shard_is_given_up_after_three_tries(sweeping, undisturbed, kind, message):
    code, _, err = sweeping.run(
        *sweeping.command("--workers", "2", "--no-cache"), fault=f"{kind}:{sweeping.name(7)}"
    )
    assert code == 2
    assert f"1 shard could not be run, the rest is kept: shard 2: {message}" in err
    assert "Traceback" not in err
    assert sorted(sweeping.done()) == [0, 1, 3, 4, 5, 6, 7]
    assert list(sweeping.records.glob("sweeps/*/*/*.json")) == []
    assert sweeping.run(*sweeping.command("--workers", "2"))[0] == 0
    assert sweeping.numbers() == undisturbed


def test_a_picture_that_cannot_be_read_is_named(sweeping, undisturbed):
    whole = (sweeping.set / sweeping.name(7)).read_bytes()
    (sweeping.set / sweeping.name(7)).write_bytes(whole[: len(whole) // 2])
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))
    assert code == 2
    assert f"shard 2: {sweeping.name(7)}: " in err
    (sweeping.set / sweeping.name(7)).write_bytes(whole)
    assert sweeping.run(*sweeping.command("--workers", "1"))[0] == 0
    assert sweeping.numbers() == undisturbed


def test_the_disk_fills_up_in_the_middle(sweeping, undisturbed):
    """From the third shard on no process of the sweep may write a byte more to any file."""
    process = sweeping.start(*sweeping.command("--workers", "2"), fault=SLOW)
    done = sweeping.wait_for(3, process)
    for number in {process.pid, *(shard["about"]["process"] for shard in done.values())}:
        resource.prlimit(number, resource.RLIMIT_FSIZE, (0, 0))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "File too large" in err or "the file size limit is reached" in err
    assert "the rest is kept" in err
    assert "Traceback" not in err
    assert 3 <= len(sweeping.done()) < 8
    assert sweeping.run(*sweeping.command("--workers", "2"))[0] == 0
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
def test_pictures_that_change_between_kill_and_resume_are_refused(sweeping, undisturbed):
    process = sweeping.start(*sweeping.command("--workers", "1"), fault=SLOW)
    sweeping.wait_for(3, process)
    process.kill()
    process.wait()
    first, last = (sweeping.set / sweeping.name(number) for number in (0, 23))
    whole = first.read_bytes()
    first.write_bytes(last.read_bytes())
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))
    assert code == 2
    assert f"1 picture changed since the sweep of pocket_fire-cpu-int8 began ({first.name})" in err
    assert "--restart" in err
    first.write_bytes(whole)  # the same bytes at another time are the same picture
    lines = (sweeping.set / "val_map.txt").read_text()
    others = lines.splitlines()
    others[23] = f"{last.name}\t{(int(others[23].split()[1]) + 1) % 100}"
    (sweeping.set / "val_map.txt").write_text("\n".join(others))
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))
    assert code == 2
    assert "1 line of the list, the first was '23 " in err
    (sweeping.set / "val_map.txt").write_text(lines)
    assert sweeping.run(*sweeping.command("--workers", "1"))[0] == 0
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
def test_restart_begins_again(sweeping, undisturbed):
    process = sweeping.start(*sweeping.command("--workers", "1"), fault=SLOW)
    sweeping.wait_for(2, process)
    process.kill()
    process.wait()
    code, _, err = sweeping.run(
        *sweeping.command("--workers", "1", "--no-cache", "--restart"), fault=f"raise:{sweeping.name(0)}"
    )
    assert (code, "shard 0: ZeroDivisionError" in err) == (2, True)  # it was done, and is run again
    assert sweeping.run(*sweeping.command("--workers", "1"))[0] == 0
    assert sweeping.numbers() == undisturbed


def test_two_commands_at_once_are_refused(sweeping):
    process = sweeping.start(*sweeping.command("--workers", "1"), fault="slow:0.5")
    sweeping.wait_for(1, process)
    code, _, err = sweeping.run(*sweeping.command("--workers", "1"))
    process.kill()
    process.wait()
    assert code == 2
    assert "another command sweeps pocket_fire-cpu-int8" in err


# pytest -m accuracy


@pytest.mark.slow
def test_xdist_runs_a_lost_workers_shard_again(sweeping, undisturbed):
    code, out, err = sweeping.run(*sweeping.session("-n", "2"), fault=f"once:{sweeping.name(7)}")
    assert code == 0, out + err
    assert sweeping.mark.exists()
    assert "1 rerun" in out
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_xdist_gives_a_poisoned_shard_up_after_three_tries(sweeping, undisturbed, workers):
    code, out, err = sweeping.run(
        *sweeping.session("-n", workers, "--no-cache"), fault=f"kill:{sweeping.name(7)}"
    )
    assert code == 1, out + err
    assert "1 failed" in out
    assert "2 rerun" in out
    assert "7 of 8 shards are done; the same command runs the rest" in out
    assert list(sweeping.records.glob("sweeps/*/*/*.json")) == []
    assert sorted(sweeping.done()) == [0, 1, 3, 4, 5, 6, 7]
    code, out, err = sweeping.run(*sweeping.session("-n", workers))
    assert code == 0, out + err
    assert sweeping.numbers() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "whom"),
    [("0", "controller"), ("2", "controller"), ("2", "worker")],
    ids=["alone", "controller", "worker"],
)
def test_the_session_that_is_killed_goes_on(sweeping, undisturbed, workers, whom):
    process = sweeping.start(*sweeping.session("-n", workers), fault="slow:0.1")
    before = sweeping.wait_for(2, process)
    crew = {shard["about"]["process"] for shard in before.values()}
    os.kill(process.pid if whom == "controller" else min(crew), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    for worker in crew:
        assert gone(worker)
    if process.returncode != 0:
        kept = sweeping.done()
        again = ";".join(f"raise:{sweeping.name(3 * number)}" for number in kept)
        code, out, err = sweeping.run(*sweeping.session("-n", workers), fault=again)
        assert code == 0, out + err
        assert "24/24 images" in out
    assert sweeping.numbers() == undisturbed
