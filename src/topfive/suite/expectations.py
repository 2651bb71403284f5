"""`bench/expectations.toml`: the cases that are known not to work, with the stage that stops them and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from topfive.cards.schema import fill, read_toml
from topfive.errors import (
    CalibrateError,
    CardError,
    CompileError,
    FetchError,
    OptimizeError,
    QuantizeError,
    RunError,
)
from topfive.golden.comparison import GoldenMismatchError

__all__ = ["STAGE_ERRORS", "Expectation", "read_expectations"]

STAGE_ERRORS: dict[str, type[Exception]] = {
    **{
        error.stage: error
        for error in (FetchError, OptimizeError, CalibrateError, QuantizeError, CompileError, RunError)
    },
    "golden": GoldenMismatchError,
}
"""Stage -> what it raises. "golden" is the comparison itself, and concerns golden tests only."""


@dataclass(frozen=True)
class Expectation:
    """Cases that must fail: model (a glob), target and quant mode, at this stage, for this reason."""

    model: str
    target: str
    quant: str
    stage: str
    reason: str

    def covers(self, model: str, target: str, quant: str) -> bool:
        """Whether a case is one of these."""
        return (self.target, self.quant) == (target, quant) and fnmatchcase(model, self.model)

    def applies_to(self, kind: str) -> bool:
        """Whether tests of this kind meet the failure."""
        return self.stage != "golden" or kind == "golden"


def read_expectations(path: Path, cases: Iterable[tuple[str, str, str]]) -> tuple[Expectation, ...]:
    """The rows of the file, () if there is none.

    cases: every (model, target, quant) that exists. Raises CardError for a malformed row, an unknown stage,
    an empty reason, a row that matches no case, and a case that two rows claim.
    """
    if not path.is_file():
        return ()
    table = read_toml(path)
    unknown = sorted(table.keys() - {"expected"})
    rows = table.get("expected", [])
    if unknown or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CardError(f"{path}: must be [[expected]] tables and nothing else")
    found = [fill(Expectation, row, path, f"expected[{n}]") for n, row in enumerate(rows)]
    claimed: dict[tuple[str, str, str], int] = {}
    known = list(cases)
    for number, row in enumerate(found):
        place = f"{path}: expected[{number}]"
        if row.stage not in STAGE_ERRORS:
            raise CardError(f"{place}.stage is {row.stage!r}; it must be one of {', '.join(STAGE_ERRORS)}")
        if not row.reason.strip():
            raise CardError(f"{place}.reason is empty: say why")
        covered = [case for case in known if row.covers(*case)]
        if not covered:
            where = f"{row.model} on {row.target}, {row.quant}"
            raise CardError(f"{place} matches no case ({where}): correct or remove the row")
        for case in covered:
            if case in claimed:
                raise CardError(f"{place} and expected[{claimed[case]}] both claim {'-'.join(case)}")
            claimed[case] = number
    return tuple(found)
