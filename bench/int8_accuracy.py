"""The table of accuracies: model x mode x passes, as a Markdown fragment for the README.

    python bench/int8_accuracy.py --readme README.md --passes docs/int8-recipes.md
                                                                # replace what is between the two comments
    python bench/int8_accuracy.py --models mobilenet_v2_tf2ptq  # print some rows

Pictures: the 2,000 drawn ones that nothing has seen for the bundled models; all of the card's folder for the
others, where calibration took some of them: the last columns leave those out. Building is timed in processor
seconds, in a cache of its own, all stages included. --json FILE keeps the rows as they come; with --keep
those that the file holds are not measured again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import topfive
from topfive.adjusting import committed
from topfive.cache import Cache, cache_root
from topfive.cards import Card, load_cards
from topfive.errors import TopfiveError
from topfive.images import LabelledImage, list_images, load_profile, preprocess_batch, procedural
from topfive.pipeline import Pipeline
from topfive.quantize.adjustments import read_adjustments
from topfive.records.published import read_published
from topfive.sources.atomic import replacing
from topfive.suite.selection import refusal
from topfive.targets.onnxruntime_runner import MODEL_FILE

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- int8-accuracy: begin -->", "<!-- int8-accuracy: end -->"
BATCH = 10
REFERENCE = ("cpu", "force_float32")


@dataclass(frozen=True)
class Row:
    """One measurement; fractions of 1. `unseen`: of the pictures that calibration did not see."""

    model: str
    target: str
    quant: str
    recipe: str
    pictures: int
    top1: float
    top5: float
    agreement: float
    unseen: int
    unseen_top1: float
    unseen_agreement: float
    unseen_sqnr: float
    megabytes: float
    build_cpu_seconds: float


class Bench:
    """Measures rows; the scores of the float model are kept for the others of the same model."""

    def __init__(self, unseen: int) -> None:
        self.unseen = unseen
        self.cache = cache_root()
        self.scores: dict[str, np.ndarray] = {}

    def pictures(self, card: Card) -> list[LabelledImage]:
        """The pictures that a card's rows are measured on, with labels."""
        if card.source.kind != "bundled":
            return list_images(card.pictures_folder(), map_file=card.pictures_map())
        count = self.unseen
        folder = self.cache / f"unseen-{procedural.GENERATION}-{count}"
        if not (folder / "val_map.txt").is_file():
            procedural.write_flat(folder, count, split="test")
        return list_images(folder)

    def row(self, card: Card, target: str, quant: str, recipe: str) -> Row | None:
        """Measure, or take from the cache; None where there is no such case."""
        if refusal(card, target, quant):
            return None
        name = recipe
        if recipe == "committed":
            place = committed(Pipeline(card, target, quant, Cache(self.cache)))
            if place is None:
                return None
            name, recipe = f"{read_adjustments(place).recipe} (committed)", ""
        with tempfile.TemporaryDirectory() as folder:
            # A cache of its own: the whole build is what is measured, but for the download.
            started = time.process_time()
            try:
                artifact = topfive.build(card, target=target, quant=quant, recipe=recipe, cache=Path(folder))
            except TopfiveError as error:
                sys.stderr.write(f"{card.name} {target} {quant} {recipe}: {error}\n")
                return None
            seconds = time.process_time() - started
            megabytes = (artifact.path / MODEL_FILE).stat().st_size / 1e6
            scores = self.measured(card, artifact)
        made = self.judged(card, scores, (target, quant, name))
        return replace(made, megabytes=megabytes, build_cpu_seconds=seconds)

    def reference(self, card: Card) -> np.ndarray:
        """The float model's scores."""
        if card.name not in self.scores:
            artifact = topfive.build(card, target=REFERENCE[0], quant=REFERENCE[1], cache=self.cache)
            self.scores[card.name] = self.measured(card, artifact)
        return self.scores[card.name]

    def measured(self, card: Card, artifact: Any) -> np.ndarray:
        """The scores of all pictures [N, entries]."""
        profile, size = load_profile(card.input.profile), card.input.size
        paths = [picture.path for picture in self.pictures(card)]
        with topfive.open(artifact) as runner:
            parts = [
                runner.run(preprocess_batch(paths[i : i + BATCH], profile, size))
                for i in range(0, len(paths), BATCH)
            ]
        return np.concatenate(parts).astype(np.float64)

    def judged(self, card: Card, scores: np.ndarray, case: tuple[str, str, str]) -> Row:
        """Compare with labels and with the float model."""
        pictures = self.pictures(card)
        wanted = self.reference(card)
        labels = np.array([picture.label or 0 for picture in pictures]) + card.output.background
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        right, agrees = best[:, 0] == labels, best[:, 0] == wanted.argmax(axis=1)
        seen = {
            path.resolve()
            for path in Pipeline(card, "cpu", "int8", Cache(self.cache)).calibration_samples().files
        }
        unseen = np.array([picture.path.resolve() not in seen for picture in pictures])
        noise = np.square(wanted - scores)[unseen].sum()
        ratio = 10 * np.log10(np.square(wanted)[unseen].sum() / noise) if noise else np.inf
        return Row(
            card.name,
            *case,
            pictures=len(pictures),
            top1=float(right.mean()),
            top5=float((best == labels[:, None]).any(axis=1).mean()),
            agreement=float(agrees.mean()),
            unseen=int(unseen.sum()),
            unseen_top1=float(right[unseen].mean()),
            unseen_agreement=float(agrees[unseen].mean()),
            unseen_sqnr=float(ratio),
            megabytes=0.0,
            build_cpu_seconds=0.0,
        )


def planned(
    settings: dict[str, Any], cards: dict[str, Card], models: Sequence[str]
) -> Iterator[tuple[Card, dict[str, str]]]:
    """(card, row of the settings), card by card; `models` (names or globs) narrows them down."""
    for card in cards.values():
        if card.quantised or card.missing_reason() or not matches(card, settings["models"]):
            continue
        if models and not matches(card, models):
            continue
        for row in settings["rows"]:
            if matches(card, row.get("models", ["*"])):
                yield card, row


def matches(card: Card, patterns: Sequence[str]) -> bool:
    """Whether a card has one of the tags ("tag:NAME") or names (globs)."""
    tags = {f"tag:{tag}" for tag in card.tags}
    return any(p in tags or fnmatch.fnmatchcase(card.name, p) for p in patterns)


def kept_rows(place: Path | None) -> dict[tuple[str, str, str, str], Row]:
    """Rows by (model, target, quant, recipe) as asked for."""
    if place is None or not place.is_file():
        return {}
    stored = json.loads(place.read_text(encoding="utf-8"))
    return {tuple(item["asked"]): Row(**item["row"]) for item in stored}  # type: ignore[misc]


def store(place: Path | None, rows: dict[tuple[str, str, str, str], Row]) -> None:
    """Write the rows so far."""
    if place is not None:
        items = [{"asked": list(asked), "row": asdict(row)} for asked, row in rows.items()]
        with replacing(place) as temporary:
            temporary.write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")


HEAD = (
    "| model | mode | passes | top-1 | top-5 | agrees | unseen: top-1 | agrees | SQNR dB | MB | CPU s |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def line(row: Row) -> str:
    """One row as Markdown."""
    mode = row.quant if row.target in ("cpu", "gemmini_sim") else f"{row.quant} ({row.target})"
    exact = row.unseen_sqnr == float("inf")
    cells = [
        row.model,
        mode,
        row.recipe or "-",
        f"{100 * row.top1:.1f}",
        f"{100 * row.top5:.1f}",
        "" if exact else f"{100 * row.agreement:.1f}",
        f"{100 * row.unseen_top1:.1f}",
        "" if exact else f"{100 * row.unseen_agreement:.1f}",
        "" if exact else f"{row.unseen_sqnr:.1f}",
        f"{row.megabytes:.2f}",
        f"{row.build_cpu_seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def published(place: Path) -> list[str]:
    """The accuracies that the tool's vendor published, as Markdown."""
    rows = [row for row in read_published(place) if row.top1 is not None]
    first = rows[0]
    return [
        f"Published, not measured here: {first.model} on {first.images} ImageNet pictures ({first.source}):",
        "",
        "| device | mode | top-1 | top-5 |",
        "|---|---|---|---|",
        *(f"| {row.device} | {row.quant} | {row.top1} | {row.top5} |" for row in rows),
    ]


def fragment(rows: Sequence[Row], place: Path | None) -> str:
    """The table, what its pictures are, and published figures from `place`."""
    counts: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        names = counts.setdefault((row.pictures, row.unseen), [])
        if row.model not in names:
            names.append(row.model)
    notes = [
        f"- {', '.join(names)}: {pictures} pictures, {unseen} of which calibration did not see."
        for (pictures, unseen), names in counts.items()
    ]
    more = ["", *published(place)] if place else []
    return "\n".join([*HEAD, *map(line, rows), "", *notes, *more])


def put_into(page: Path, text: str) -> None:
    """Replace what is between the two comments."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: has no lines {BEGIN} and {END}")
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--models", action="append", default=[], help="a name, a glob or tag:NAME (repeatable)"
    )
    parser.add_argument("--readme", type=Path, help="the file to update; else the fragment is printed")
    parser.add_argument("--passes", type=Path, help="the page that gets the rows of single passes, likewise")
    parser.add_argument("--json", type=Path, help="where rows are kept")
    parser.add_argument("--keep", action="store_true", help="do not measure again what the file holds")
    given = parser.parse_args()
    settings = tomllib.loads((FOLDER / "int8_accuracy.toml").read_text(encoding="utf-8"))
    known = kept_rows(given.json) if given.keep else {}
    bench, rows = Bench(settings["unseen"]), dict(known)
    modes, passes = [], []
    for card, wanted in planned(settings, load_cards(), given.models):
        asked = (card.name, wanted["target"], wanted["quant"], wanted.get("recipe", ""))
        if asked not in rows:
            row = bench.row(card, *asked[1:])
            if row is None:
                continue
            rows[asked] = row
            store(given.json, rows)
            sys.stderr.write(f"{line(row)}\n")
        if not wanted.get("passes"):
            modes.append(rows[asked])
        if wanted["target"] in ("cpu", "gemmini_sim") and "realdata" in card.tags:
            passes.append(rows[asked])
    for page, text in (
        (given.readme, fragment(modes, (FOLDER / settings["published"]).resolve())),
        (given.passes, fragment(passes, None)),
    ):
        if page:
            put_into(page, text)
        else:
            sys.stdout.write(f"{text}\n\n")


if __name__ == "__main__":
    main()
