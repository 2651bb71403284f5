"""`topfive postprocess`: the sum of batch runs that were split into parts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from topfive.commands import print_json
from topfive.errors import TopfiveError

__all__ = ["read_output", "sum_outputs"]

_COUNTS = "([0-9]{1,9})/([0-9]{1,9})"
_LAST_LINES = re.compile(f"Finished batch\nTop five right: {_COUNTS}\nTop one right: {_COUNTS}\n?")


def sum_outputs(folder: Path, *, as_json: bool) -> None:
    """Sum the counts of every file out.* in `folder` and print them as the runner's own tool does.

    Raises TopfiveError if there is none, or naming the one that cannot be read or is not finished.
    """
    try:
        outputs = sorted(path for path in folder.iterdir() if path.name.startswith("out.") and path.is_file())
    except OSError as error:
        raise TopfiveError(f"{folder} cannot be read: {error.strerror or error}") from error
    if not outputs:
        raise TopfiveError(f"{folder} has no files out.*: keep the output of `topfive run -i LIST.txt` there")
    counts = [read_output(path) for path in outputs]
    top5, top1, total = (sum(column) for column in zip(*counts, strict=True))
    if as_json:
        print_json({"files": len(outputs), "total": total, "top5_right": top5, "top1_right": top1})
        return
    sys.stdout.write(
        f"Total lines processed {total}\nTop five right: {top5}/{total}\nTop one right: {top1}/{total}\n"
    )


def read_output(path: Path) -> tuple[int, int, int]:
    """(top five right, top one right, pictures) of a batch run's output, from its last three lines.

    Raises TopfiveError naming the file if they are not the runner's last block, or if it cannot be.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TopfiveError(f"{path} cannot be read: {error.strerror or error}") from error
    match = _LAST_LINES.fullmatch("".join(text.splitlines(keepends=True)[-3:]))
    if not match:
        raise TopfiveError(
            f"{path} does not end with the three lines from 'Finished batch' on: run this part again"
        )
    top5, total, top1, again = (int(number) for number in match.groups())
    if total != again or not top1 <= top5 <= total:
        raise TopfiveError(
            f"{path} ends with counts that cannot be, {top5}/{total} and {top1}/{again}: run this part again"
        )
    return top5, top1, total
