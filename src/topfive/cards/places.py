"""Where a card's files are: the fixtures folder, the shared data, and $VARIABLES in paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

from topfive.errors import CardError

__all__ = ["CARDS_FOLDERS", "expand", "fixtures_root"]

_PACKAGE = Path(__file__).resolve().parent.parent
_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)

CARDS_FOLDERS = tuple(_PACKAGE / "cards" / name for name in ("models", "realdata", "zoo"))
"""The folders of the cards that come with topfive."""


def _checkout() -> Path | None:
    """The repository, when topfive runs from one (an editable install)."""
    root = _PACKAGE.parent.parent
    return root if _PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file() else None


def fixtures_root() -> Path:
    """The folder of bundled models, labels and pictures.

    TOPFIVE_FIXTURES, else the copy inside an installed wheel, else `fixtures/` of the checkout.
    Raises CardError if there is none.
    """
    named = os.environ.get("TOPFIVE_FIXTURES", "")
    if named:
        if not Path(named).is_dir():
            raise CardError(f"TOPFIVE_FIXTURES={named}: no such folder; correct or unset the variable")
        return Path(named)
    checkout = _checkout()
    for folder in (_PACKAGE / "_fixtures", *([checkout / "fixtures"] if checkout else [])):
        if folder.is_dir():
            return folder
    raise CardError("no fixtures folder in this installation: set TOPFIVE_FIXTURES to one")


def expand(text: str, base: Path) -> Path:
    """The path that `text` names after $NAME, ${NAME} and ~ are expanded; relative ones start at `base`.

    $$ is a dollar sign.
    $TOPFIVE_DATA falls back to `../shared/data` beside an editable checkout, when that exists.
    Raises CardError naming a variable that is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        found = os.environ.get(name, "") or (_shared_data() if name == "TOPFIVE_DATA" else "")
        if not found:
            raise CardError(f"environment variable {name} is not set (needed for {text!r})")
        return found

    path = Path(_VARIABLE.sub(value, text))
    try:
        return base / path.expanduser()
    except RuntimeError as error:
        raise CardError(f"no home folder for {text!r}: write the path out") from error


def _shared_data() -> str:
    checkout = _checkout()
    folder = checkout.parent / "shared" / "data" if checkout else None
    return str(folder) if folder and folder.is_dir() else ""
