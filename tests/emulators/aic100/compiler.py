"""Emulated qaic-exec and qaic-compile: flags `-name` or `-name=value`, as LLVM's tools take them.

The program that it makes holds the model in the float16 arithmetic of `aic100_sim`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from common import MAGIC, PROGRAM, die, hang, introduction, state

ANY, NUMBER, NUMBERS, FLAG = r".+", r"[1-9]\d*", r"[1-9]\d*(,[1-9]\d*)*", None
FLAGS: dict[str, str | None] = {
    "m": ANY,
    "model": ANY,
    "onnx-define-symbol": r"\w+,[1-9]\d*",
    "aic-hw": FLAG,
    "aic-hw-version": r"2\.0",
    "aic-num-cores": NUMBER,
    "ols": NUMBER,
    "mos": NUMBERS,
    "convert-to-fp16": FLAG,
    "compile-only": FLAG,
    "aic-binary-dir": ANY,
    "stats-batchsize": NUMBER,
    "batchsize": NUMBER,
    "multicast-weights": FLAG,
    "use-producer-dma": NUMBER,
    "aic-enable-depth-first": FLAG,
    "aic-depth-first-mem": r"[89]|[12]\d|3[0-2]",
    "sdp-cluster-sizes": NUMBERS,
    "aic-profiling-type": r"stats|trace|latency",
}
WANTED = ("aic-hw", "aic-hw-version", "convert-to-fp16", "compile-only", "aic-binary-dir", "aic-num-cores")
MOST_CORES = 16


class RefusedError(Exception):
    """What the tool says on standard error before it exits with status 1."""


def parse(tool: str, arguments: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for argument in arguments:
        name, separator, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in FLAGS:
            raise RefusedError(f"{tool}: Unknown command line argument '{argument}'.  Try: '{tool} --help'")
        form = FLAGS[name]
        if (form is None) == bool(separator):
            says = "does not allow a value" if form is None else "requires a value"
            raise RefusedError(f"{tool}: for the -{name} option: {says}!")
        if form is not None and not re.fullmatch(form, value):
            raise RefusedError(f"{tool}: for the -{name} option: '{value}' value invalid!")
        if name in found and name != "onnx-define-symbol":
            raise RefusedError(f"{tool}: for the -{name} option: may only occur zero or one times!")
        found.setdefault(name, []).append(value)
    found["m"] = [*found.pop("model", []), *found.get("m", [])]
    if len(found["m"]) != 1:
        raise RefusedError(f"{tool}: one input model is wanted: -m=<path>")
    for name in WANTED:
        if name not in found:
            raise RefusedError(f"{tool}: for the -{name} option: must be specified at least once!")
    if int(found["aic-num-cores"][0]) > MOST_CORES:
        raise RefusedError(f"Error: -aic-num-cores must be 1 to {MOST_CORES}")
    return found


def fix(model: Any, symbols: dict[str, int]) -> None:
    """Give every symbolic dimension of the input its number, and of the outputs."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.dim_param:
                continue
            if dim.dim_param not in symbols:
                raise RefusedError(
                    f"Error: symbol {dim.dim_param} of {value.name} is not defined: use -onnx-define-symbol"
                )
            dim.dim_value = symbols[dim.dim_param]


def shape(value: Any) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def program(path: Path, symbols: dict[str, int], cores: int, stats_batch: int) -> bytes:
    import onnx

    from topfive.targets.twins.lowering import lower_twin

    try:
        model = onnx.load(path, format="protobuf")
    except Exception as error:
        raise RefusedError(f"Error: failed to load ONNX model {path}: {error}") from None
    unused = symbols.keys() - {
        dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim
    }
    if unused:
        raise RefusedError(f"Error: the model has no symbol {', '.join(sorted(unused))}")
    fix(model, symbols)
    given, made = model.graph.input[0], model.graph.output[0]
    described = {
        "input": {"name": given.name, "dims": shape(given)},
        "output": {"name": made.name, "dims": shape(made)},
        "cores": cores,
        "batch": stats_batch,
    }
    lowered = lower_twin(model, half=True).model
    return MAGIC + json.dumps(described).encode() + b"\n" + lowered.SerializeToString(deterministic=True)


def compile_model(tool: str, arguments: list[str]) -> int:
    told = state()
    if told["failure"] == "compile_hang":
        hang(told)
    options = parse(tool, arguments)
    path, folder = Path(options["m"][0]), Path(options["aic-binary-dir"][0])
    symbols = {
        name: int(number) for name, number in (s.split(",") for s in options.get("onnx-define-symbol", []))
    }
    if not path.is_file():
        raise RefusedError(f"Error: cannot open {path}")
    if folder.exists():
        raise RefusedError(f"Error: the directory {folder} exists already")
    print(f"Reading ONNX Model from {path}", flush=True)
    if told["failure"] == "compile_failure":
        raise RefusedError("Error: Unable to compile: node Conv_0 does not fit the memory of an NSP")
    print("Compile started ............... ", flush=True)
    print("Compiling model with FP16 precision.", flush=True)
    batch = int(options.get("stats-batchsize", ["1"])[0])
    content = program(path, symbols, int(options["aic-num-cores"][0]), batch)
    if told["failure"] == "compile_killed":
        die()
    if told["failure"] != "compile_no_program":
        folder.mkdir(parents=True)
        (folder / PROGRAM).write_bytes(content)
    if told["failure"] != "compile_silent":
        print(f"Generated binary is present at {folder}")
    return 0


def main(tool: str, arguments: list[str]) -> int:
    if {"-h", "-help", "--help", "-usage", "--usage"}.intersection(arguments):
        print(f"{introduction(tool)}\nUSAGE: {tool} [options]\n" + "\n".join(f"  -{name}" for name in FLAGS))
        return 0
    try:
        return compile_model(tool, arguments)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
