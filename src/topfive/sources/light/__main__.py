"""`python -m topfive.sources.light`: write a light network, or measure the committed statistics anew."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topfive.errors import TopfiveError
from topfive.sources.light import ARCHITECTURES, STATISTICS, write
from topfive.sources.light.measure import measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m topfive.sources.light", description=__doc__)
    parser.add_argument(
        "--measure", action="store_true", help="measure all statistics and write statistics.json"
    )
    parser.add_argument("--write", metavar="NAME", help=f"write one network: {', '.join(ARCHITECTURES)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    parser.add_argument("-o", "--output", type=Path, help="the file to write")
    options = parser.parse_args(arguments)
    if options.measure == bool(options.write):
        parser.error("give --measure or --write NAME")
    try:
        if options.measure:
            _measure_all(options.output or STATISTICS)
        else:
            write(options.write, options.seed, options.output or Path(f"light_{options.write}.onnx"))
    except TopfiveError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure_all(out: Path) -> None:
    tables: dict[str, dict[str, Any]] = {}
    for architecture in ARCHITECTURES:
        print(architecture, file=sys.stderr)
        tables[architecture] = measure(architecture)
    # one line an entry, so that a change is readable in a diff
    blocks = (
        json.dumps(name)
        + ": {\n"
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table.items())
        + "\n}"
        for name, table in tables.items()
    )
    out.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
