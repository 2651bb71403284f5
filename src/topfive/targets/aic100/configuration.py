"""Which configuration a model is compiled and run with: options, then a table of tuned ones, then defaults.

`lut.csv` has the columns and the figures of the look-up table `lut_cv_classifiers.csv` of quic/cloud-ai-sdk
(models/vision/classification, commit 10c29e2c6af3), all 109 rows, by model and objective; another can be
given. `defaults.csv` has the defaults of the run_cv_classifier.py beside it, an objective a row.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from topfive.errors import OptionError

__all__ = ["OBJECTIVES", "Configuration", "Row", "configure", "look_up", "read_table", "table_source"]

OBJECTIVES = ("best-throughput", "best-latency", "balanced")
PRECISION = "fp16"
# Column of the tables -> option of the target.
COLUMNS = {
    "BATCH_SIZE": "batch-size",
    "IMAGE_SIZE": "image-size",
    "CORES": "cores",
    "INSTANCES": "instances",
    "OLS": "ols",
    "MOS": "mos",
    "EXTRA": "extra",
    "SET_SIZE": "set-size",
}
NONE = "none"
"""Chosen for `mos` or `extra`: no flag, whatever the table says."""
NAME = re.compile(r"[\w.-]+")
NUMBER = re.compile(r"[1-9]\d{0,6}")
NUMBERS = re.compile(r"[1-9]\d{0,6}(,[1-9]\d{0,6})*")
# Flags that the compile command has already: EXTRA cannot say them again.
TAKEN = (
    "m",
    "model",
    "onnx-define-symbol",
    "aic-hw",
    "aic-hw-version",
    "aic-num-cores",
    "ols",
    "mos",
    "convert-to-fp16",
    "compile-only",
    "aic-binary-dir",
    "stats-batchsize",
)
Row = Mapping[str, str]


@dataclass(frozen=True)
class Configuration:
    """Everything that the compile and run commands are told about a model.

    image_size: height and width, as options, table or defaults say. ols, mos: as the compiler takes them; mos
    "" for none. extra: more flags of the compiler, one an element. origins: of each option, "option", "table"
    or "default". notes: what a reader must know. published: (images a second, 95th percentile in ms) of the
    table's row, where all of the configuration is the row's.
    """

    objective: str
    batch_size: int
    image_size: int
    cores: int
    instances: int
    ols: str
    mos: str
    set_size: int
    extra: tuple[str, ...]
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()
    published: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Its fields as JSON has them."""
        return {**asdict(self), "extra": list(self.extra), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Configuration:
        """What `as_json` gave. Raises TypeError or KeyError for anything else."""
        published = stored["published"]
        lists = {"extra": tuple(stored["extra"]), "notes": tuple(stored["notes"])}
        return cls(**{**stored, **lists, "published": tuple(published) if published else None})

    @property
    def motif(self) -> str:
        """The part of the names of folders and files that tells configurations apart."""
        mos = f"-MOS{self.mos}" if self.mos else ""
        name = f"B{self.batch_size}-C{self.cores}-A{self.instances}-OLS{self.ols}{mos}-{self.objective}"
        return name.replace(" ", "")


def table_source(given: str) -> Path:
    """The table that option `lut` names: a file, or ours without one."""
    return Path(given).expanduser() if given else Path(str(files("topfive.targets.aic100") / "lut.csv"))


def read_table(path: Path) -> tuple[Row, ...]:
    """The rows of a table of tuned configurations: CSV, UTF-8 with or without a byte order mark.

    Blank rows are left out; blanks around values do not count. Raises OptionError naming the file and the
    line: it cannot be read, a documented column is missing, or a value is not of its column's form.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = {"MODEL_NAME", "OBJECTIVE", *COLUMNS} - set(reader.fieldnames or ())
            if missing:
                raise OptionError(f"{path}, line 1: lacks the columns {', '.join(sorted(missing))}")
            found = []
            for row in reader:
                if None in row:
                    raise OptionError(f"{path}, line {reader.line_num}: has more values than columns")
                values = {name: (value or "").strip() for name, value in row.items()}
                if any(values.values()):
                    _check(values, f"{path}, line {reader.line_num}")
                    found.append(values)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"the table {path} cannot be read: {error}") from None
    return tuple(found)


def _check(row: Row, place: str) -> None:
    if not row["MODEL_NAME"] or not row["OBJECTIVE"]:
        raise OptionError(f"{place}: MODEL_NAME and OBJECTIVE must not be empty")
    if not NAME.fullmatch(row["OBJECTIVE"]):
        raise OptionError(f"{place}: OBJECTIVE is {row['OBJECTIVE']!r}: it becomes part of a file's name")
    for column in COLUMNS:
        value = row[column]
        wanted = NUMBERS if column == "MOS" else NUMBER
        if column == "EXTRA":
            _flags(value, place)
        elif value and not wanted.fullmatch(value):
            raise OptionError(f"{place}: {column} is {value!r}, not a whole number of 1 or more")


def _flags(text: str, place: str) -> tuple[str, ...]:
    """More flags for the compiler; OptionError for what is none, or is one that it is given already."""
    try:
        flags = tuple(shlex.split(text))
    except ValueError as error:
        raise OptionError(f"{place}: {text!r} cannot be split into flags: {error}") from None
    for flag in flags:
        if not re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", flag, re.DOTALL):
            raise OptionError(f"{place}: {flag!r} is no flag of the compiler: write -NAME or -NAME=VALUE")
        if flag.lstrip("-").partition("=")[0] in TAKEN:
            raise OptionError(
                f"{place}: {flag!r} is given to the compiler already: it has an option of its own"
            )
    return flags


@cache
def _defaults() -> Mapping[str, Row]:
    path = Path(str(files("topfive.targets.aic100") / "defaults.csv"))
    with path.open(encoding="utf-8", newline="") as file:
        return {row["OBJECTIVE"]: row for row in csv.DictReader(file)}


def look_up(rows: tuple[Row, ...], model: str, objective: str) -> tuple[Row | None, bool]:
    """(the row of a model and an objective, True), else (any row of the model, False), else (None, False).

    Rows of another precision than fp16 do not count. run_cv_classifier.py means the second step too, but
    never takes it: its reader is at the end by then.
    """
    usable = [
        row for row in rows if row["MODEL_NAME"] == model and row.get("PRECISION", "") in ("", PRECISION)
    ]
    exact = next((row for row in usable if row["OBJECTIVE"] == objective), None)
    return (exact, True) if exact is not None else (next(iter(usable), None), False)


def configure(model: str, chosen: Mapping[str, str], rows: tuple[Row, ...]) -> Configuration:
    """The configuration of a model: what was chosen, else what its row says, else the objective's default.

    model: as in the table's MODEL_NAME. chosen: the target's options by name, without those left to
    themselves. Raises OptionError for flags in `extra` that are none.
    """
    wanted = chosen.get("objective", OBJECTIVES[0])
    row, exact = look_up(rows, model, wanted)
    objective = row["OBJECTIVE"] if row else wanted
    notes = (
        [f"the table has no row of {model} for {wanted}: its row for {objective} is taken"]
        if row and not exact
        else []
    )
    # Whatever an objective is called, what is neither of the two is balanced.
    defaults = _defaults().get(objective, _defaults()[OBJECTIVES[2]])
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for column, option in COLUMNS.items():
        steps = {
            "option": chosen.get(option, ""),
            "table": row[column] if row else "",
            "default": defaults[column],
        }
        origins[option] = next((step for step, value in steps.items() if value), "default")
        found = steps[origins[option]]
        values[option] = "" if found == NONE else found
    return Configuration(
        objective=objective,
        batch_size=int(values["batch-size"]),
        image_size=int(values["image-size"]),
        cores=int(values["cores"]),
        instances=int(values["instances"]),
        ols=values["ols"],
        mos=values["mos"],
        set_size=int(values["set-size"]),
        extra=_flags(values["extra"], "option extra"),
        origins=origins,
        notes=tuple(notes),
        published=_published(row, chosen) if row and exact else None,
    )


def _published(row: Row, chosen: Mapping[str, str]) -> tuple[float, float] | None:
    """The figures of a row that is taken whole; None where it has none."""
    if any(chosen.get(option) for option in COLUMNS.values()) or not all(
        row[c] for c in ("CORES", "BATCH_SIZE")
    ):
        return None
    try:
        return float(row["THPS"]), float(row["LATENCY"])
    except (KeyError, ValueError):
        return None
