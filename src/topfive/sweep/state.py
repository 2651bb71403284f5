"""A sweep on disk: its plan, its list of pictures and the shards that are done; a killed sweep goes on."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from topfive.cache import content_key
from topfive.datasets import Listing, Storage
from topfive.errors import SweepError
from topfive.files import write_whole
from topfive.sweep.plan import Plan, counted
from topfive.sweep.shards import KEPT, ShardResult, read_shard, shard_file, write_shard

__all__ = ["SweepState", "forget_sweeps", "held", "sweeps_folder"]

PLAN = "plan.json"
PICTURES = "pictures.tsv"
SHOWN = 3


def sweeps_folder(cache: Path) -> Path:
    """Where unfinished sweeps are kept."""
    return cache / "sweeps"


class SweepState:
    """One case's sweep in its folder. Any number of processes may have it open and write shards."""

    def __init__(self, folder: Path, plan: Plan, identity: str) -> None:
        self.folder = folder
        self.plan = plan
        self.id = identity

    @staticmethod
    def open(cache: Path, plan: Plan, listing: Listing) -> SweepState:
        """The sweep of this plan: begun now, or gone on with.

        Raises SweepError saying what changed when the pictures, the decoder or a library are not those with
        which the sweep began.
        """
        folder = sweeps_folder(cache) / plan.key()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if (folder / PLAN).is_file():
                state = SweepState.read(folder)
                state._refuse_changes(plan, listing)
                return state
            write_whole(folder / PICTURES, listing.text().encode(), SweepError, KEPT)
            identity = secrets.token_hex(16)
            stored = {"id": identity, "plan": plan.to_json()}
            write_whole(folder / PLAN, json.dumps(stored, indent=1).encode(), SweepError, KEPT)
            return SweepState(folder, plan, identity)

    @staticmethod
    def read(folder: Path) -> SweepState:
        """The sweep in a folder. Raises SweepError if there is none."""
        try:
            stored: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            return SweepState(folder, Plan.from_json(stored["plan"]), str(stored["id"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SweepError(f"{folder} holds no sweep: {error}") from error

    def done(self) -> set[int]:
        """Numbers of the shards whose results are there."""
        return {n for n in range(self.plan.shards) if shard_file(self.folder, n).is_file()}

    def write(self, result: ShardResult) -> None:
        """Keep a shard's result. Raises SweepError."""
        write_shard(self.folder, result)

    def result(self, number: int) -> ShardResult:
        """The result of a shard. Raises SweepError when it is damaged or of another sweep."""
        path = shard_file(self.folder, number)
        result = read_shard(path)
        if (result.plan, result.number) != (self.id, number):
            raise SweepError(f"{path} is shard {result.number} of another sweep: remove it and run again")
        return result

    def remove(self) -> None:
        """Forget the sweep: its record is written."""
        (self.folder / PLAN).unlink(missing_ok=True)  # first, so that a kill in the middle leaves no sweep
        shutil.rmtree(self.folder, ignore_errors=True)

    def check_pictures(self, numbers: Iterable[int], listing: Listing, storage: Storage) -> None:
        """Raise SweepError naming the pictures of these finished shards whose files have changed since.

        Files with the stamp of then are the same; others are read and hashed.
        """
        names = {picture.index: picture.name for picture in listing.pictures}
        changed = []
        for number in numbers:
            result = self.result(number)
            for row, index in enumerate(result.indices.tolist()):
                name = names[index]
                if storage.stamp(name) == result.stamps[row].tobytes():
                    continue
                if hashlib.sha256(storage.read(name)).digest() != result.sha256[row].tobytes():
                    changed.append(name)
        if changed:
            shown = ", ".join(changed[:SHOWN]) + (", ..." if len(changed) > SHOWN else "")
            raise SweepError(
                f"{self.plan.root}: {counted(len(changed), 'picture')} changed since the sweep of "
                f"{self.plan.case} began ({shown}): put the old ones back, or begin again with --restart"
            )

    def _refuse_changes(self, plan: Plan, listing: Listing) -> None:
        if plan == self.plan:
            return
        then, now = _said(self.plan), _said(plan)
        changes = [
            f"{key} was {then.get(key, 'unknown')}, is {now.get(key, 'unknown')}"
            for key in dict.fromkeys((*now, *then))
            if then.get(key) != now.get(key)
        ]
        if plan.pictures_sha256 != self.plan.pictures_sha256:
            changes.insert(0, self._list_change(listing))
        raise SweepError(
            f"the sweep of {plan.case} that was begun in {self.folder} was of other data ({changes[0]}): "
            "restore it and run the same command, or begin again with --restart",
            details="\n".join(changes[1:]),
        )

    def _list_change(self, listing: Listing) -> str:
        try:
            then = (self.folder / PICTURES).read_text(encoding="utf-8").splitlines()
        except OSError:
            return "the list of pictures"
        now = listing.text().splitlines()
        differing = [
            (old, new)
            for old, new in zip([*then, *[""] * len(now)], [*now, *[""] * len(then)], strict=False)
            if old != new
        ]
        old, new = (line.replace("\t", " ") or "nothing" for line in differing[0])
        return f"{counted(len(differing), 'line')} of the list, the first was {old!r} and is {new!r}"


def _said(plan: Plan) -> dict[str, Any]:
    """What a plan says, versions by their names, without the hash of the list."""
    said = plan.to_json()
    del said["pictures_sha256"]
    made_by = dict(said.pop("made_by"))
    return {**said, **made_by}


def forget_sweeps(cache: Path, cases: Sequence[tuple[str, str, str]], root: str) -> None:
    """Remove the unfinished sweeps of these cases (model, target, quant mode) over the pictures of `root`."""
    for place in sorted(sweeps_folder(cache).glob(f"*/{PLAN}")):
        state = SweepState.read(place.parent)
        case = (state.plan.model, state.plan.target, state.plan.quant)
        if case in cases and state.plan.root == root:
            state.remove()


@contextmanager
def held(cache: Path, cases: Sequence[tuple[str, str, str]], pictures: str) -> Iterator[None]:
    """Be the only command that sweeps these cases over `pictures` (as the command names them).

    Raises SweepError naming the case when another command has it. A killed command holds nothing.
    """
    folder = sweeps_folder(cache) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        for case in sorted(set(cases)):
            name = "-".join(case)
            lock = FileLock(folder / f"{name}-{content_key({'pictures': pictures})[:16]}.lock")
            try:
                locks.enter_context(lock.acquire(timeout=0))
            except Timeout as error:
                raise SweepError(
                    f"another command sweeps {name} over {pictures or 'its pictures'} already: wait for it"
                ) from error
        yield
