"""`topfive run -i LIST.txt`: labelled pictures, printed as the Gemmini imagenet runner prints a batch."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import topfive
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.run import Settings, prepare, runner_text
from topfive.errors import ImageError, TopfiveError
from topfive.pipeline import resolve_card

__all__ = ["ListedPicture", "Tally", "chosen_lines", "classify_list", "names_list", "read_list"]

CHECKPOINT = 100
RUNNERS_CLASSES = 1000
_SPAN = re.compile(r"([0-9]{1,9})(?:,(-1|[0-9]{1,9}))?")


@dataclass(frozen=True)
class ListedPicture:
    """A line of a batch list: its number among the lines that are not blank (from 1), and its label."""

    line: int
    path: Path
    label: int


@dataclass
class Tally:
    """How many pictures ran, and for how many the label was among the five best, and the best."""

    total: int = 0
    top5: int = 0
    top1: int = 0

    def count(self, label: int, best: Sequence[int]) -> None:
        """Add a picture: its label and its best classes' indices, best first."""
        self.total += 1
        self.top5 += label in best
        self.top1 += label == best[0]

    def text(self) -> str:
        """The two lines of a checkpoint and of the end."""
        return f"Top five right: {self.top5}/{self.total}\nTop one right: {self.top1}/{self.total}\n"


@dataclass
class _Printer:
    """Writes the runner's blocks as pictures come, or nothing; flushed, so that a run can be watched."""

    labels: Sequence[str]
    offset: int
    silent: bool
    tally: Tally = field(default_factory=Tally)

    def add(self, picture: ListedPicture, elements: int, best: Sequence[tuple[int, str, float]]) -> None:
        """Count a picture and print its block; a checkpoint after each hundredth line of the list."""
        expected = picture.label + self.offset
        self.tally.count(expected, [index for index, _, _ in best])
        name = self.labels[expected] if self.labels else ""
        text = runner_text(elements, best) + f"Expected was {picture.label} - {name or picture.label}\n"
        if picture.line % CHECKPOINT == 0:
            text += f"Checkpoint! Processed up to line {picture.line}\n{self.tally.text()}"
        self._write(text)

    def finish(self) -> None:
        """Print the last block."""
        self._write(f"Finished batch\n{self.tally.text()}")

    def _write(self, text: str) -> None:
        if not self.silent:
            sys.stdout.write(text)
            sys.stdout.flush()


def names_list(images: Sequence[Path], span: str | None) -> bool:
    """Whether `-i` names a batch list: a .txt file.

    Raises TopfiveError for a list beside other pictures, and for a range without a list.
    """
    lists = [path for path in images if path.suffix.lower() == ".txt"]
    if lists and len(images) > 1:
        raise TopfiveError(f"{lists[0]} is a list of pictures: give it as the only -i")
    if span is not None and not lists:
        raise TopfiveError(f"--range {span} chooses lines of a list: give a .txt file as -i")
    return bool(lists)


def classify_list(model: str, batch_list: Path, settings: Settings, *, span: str | None) -> None:
    """Run the pictures of a list one at a time, print each one's five best and label, and count.

    Nothing is built or run unless every line of the list is right.
    """
    card = resolve_card(model, settings.cards)
    pictures = chosen_lines(read_list(batch_list, classes=_classes(card)), span, batch_list)
    job = prepare(card, settings)
    printer = _Printer(job.labels, int(card.output.background), silent=settings.as_json)
    rows: list[dict[str, Any]] = []
    with (
        settings.logging(),
        topfive.open(job.artifact, threads=settings.threads) as runner,
        settings.tracing(runner, [picture.path for picture in pictures]) as runs,
    ):
        for picture in pictures:
            output = job.scores(runs, picture.path)
            best = topfive.top5(output, job.labels)
            printer.add(picture, len(output), best)
            rows.append(
                {
                    "image": str(picture.path),
                    "line": picture.line,
                    "label": picture.label,
                    "elements": len(output),
                    "top5": best,
                }
            )
    printer.finish()
    if settings.as_json:
        tally = printer.tally
        counts = {"total": tally.total, "top5_right": tally.top5, "top1_right": tally.top1}
        print_json({**job.described(), "list": str(batch_list), **counts, "images": rows})


def _classes(card: Card) -> int:
    """How many labels are possible: the runner's 1000, or the model's classes if it has fewer."""
    return min(card.output.classes, RUNNERS_CLASSES)


def read_list(batch_list: Path, *, classes: int = RUNNERS_CLASSES) -> list[ListedPicture]:
    """The pictures of a batch list: one path a line, ".../<label>/<file>"; blank lines are skipped.

    A relative path that does not exist as given is looked for in the list's folder. Labels are whole numbers
    below `classes`. Raises ImageError naming the file's line (blank ones counted) and the path, for a label
    that is none, or a picture that does not exist; and for a list that cannot be read or is empty.
    """
    try:
        text = batch_list.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{batch_list}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ImageError(f"{batch_list}: cannot be read: {error.strerror or error}") from error
    found: list[ListedPicture] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if name := line.strip():
            place = f"{batch_list}, line {number}: {name}"
            label = _label(name, place, classes)
            found.append(ListedPicture(len(found) + 1, _picture(name, batch_list.parent, place), label))
    if not found:
        raise ImageError(f"{batch_list}: names no pictures; write one path a line, .../<label>/<file>")
    return found


def _label(name: str, place: str, classes: int) -> int:
    folder = Path(name).parent.name
    if not (folder.isascii() and folder.isdecimal()):
        raise ImageError(
            f"{place}: its folder {folder!r} is not a label; put it into a folder named by its class, "
            f"0 to {classes - 1}"
        )
    if len(folder.lstrip("0")) > 9 or int(folder) >= classes:
        raise ImageError(f"{place}: label {folder} is outside 0 to {classes - 1}; correct the folder's name")
    return int(folder)


def _picture(name: str, folder: Path, place: str) -> Path:
    try:
        for path in (Path(name), folder / name):
            if path.is_file():
                return path
    except (OSError, ValueError) as error:
        raise ImageError(f"{place}: cannot be a file's path: {error}") from error
    raise ImageError(f"{place}: no such picture; correct the path or remove the line")


def chosen_lines(
    pictures: Sequence[ListedPicture], span: str | None, batch_list: Path
) -> list[ListedPicture]:
    """The lines START to END of a list, from 1, END included; without END, or with -1, to the last.

    An END beyond the last line is the last, so that a list can be split into equal parts. Raises TopfiveError
    for a span that is not START[,END], starts at 0 or beyond the list, or ends before it starts.
    """
    if span is None:
        return list(pictures)
    match = _SPAN.fullmatch(span.replace(" ", ""))
    if not match:
        raise TopfiveError(f"--range {span!r} is not START[,END]: give line numbers, for example 1,50")
    start = int(match[1])
    end = len(pictures) if match[2] in (None, "-1") else int(match[2])
    if not 1 <= start <= len(pictures):
        raise TopfiveError(
            f"--range {span} starts outside {batch_list}: its picture lines are 1 to {len(pictures)}"
        )
    if end < start:
        raise TopfiveError(f"--range {span} ends before it starts: give START,END with END not below START")
    return list(pictures[start - 1 : end])
