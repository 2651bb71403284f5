"""Operations: the command line's own declarations, called with JSON.

A request is `{"action": "records list", ...}`: the command's words, and its options by their long names
(`{"model": "pocket_fire", "scenario": ["Offline"]}`), arguments by theirs. The answer is `{"return": 0,
"result": ...}`; 1 means that a comparison failed, 2 that the request or its input is bad, with `error`.
Each runs as a process of its own, so that a crash of native code is an answer too.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

__all__ = ["Operation", "Parameter", "answer", "operations"]

LEFT_OUT = ("api", "serve")
CRASHED = 3
TYPES: Mapping[Any, str] = {int: "integer", float: "number", bool: "boolean"}
NUMBERS: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str, int, float),
}


@dataclass(frozen=True)
class Parameter:
    """One option or argument of a command. option: `--name`, "" for an argument. type: JSON Schema's word."""

    option: str
    type: str
    many: bool
    required: bool
    help: str

    def schema(self) -> dict[str, Any]:
        """JSON Schema of its value."""
        described = {"description": self.help} if self.help else {}
        if self.many:
            return {"type": "array", "items": {"type": self.type}, **described}
        return {"type": self.type, **described}


@dataclass(frozen=True)
class Operation:
    """One command: its words, what it does, its parameters by name, and whether it can print JSON."""

    action: str
    help: str
    parameters: Mapping[str, Parameter]
    prints_json: bool

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the request, without `action`."""
        properties = {name: parameter.schema() for name, parameter in self.parameters.items()}
        required = [name for name, parameter in self.parameters.items() if parameter.required]
        made: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**made, "required": required} if required else made


@cache
def operations() -> dict[str, Operation]:
    """Every command by its words, except those that serve operations."""
    from topfive.cli import app

    return {one.action: one for one in _walk(app, ())}


def _walk(app: typer.Typer, words: tuple[str, ...]) -> Iterator[Operation]:
    for command in app.registered_commands:
        if command.callback is None:
            continue
        name = command.name or command.callback.__name__.replace("_", "-")
        if name not in LEFT_OUT:
            yield _operation(" ".join((*words, name)), command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _walk(group.typer_instance, (*words, str(group.name)))


def _operation(action: str, function: Callable[..., Any]) -> Operation:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = {}
    for name, parameter in inspect.signature(function).parameters.items():
        made = _parameter(name, hints[name], required=parameter.default is inspect.Parameter.empty)
        parameters[made.option.lstrip("-").replace("-", "_") or name] = made
    prints_json = parameters.pop("json", None) is not None
    return Operation(action, inspect.cleandoc(function.__doc__ or ""), parameters, prints_json)


def _parameter(name: str, hint: Any, *, required: bool) -> Parameter:
    plain, info = _unwrapped(hint)
    many = typing.get_origin(plain) is list
    kind = typing.get_args(plain)[0] if many else plain
    option = ""
    if not isinstance(info, ArgumentInfo):
        # With Annotated, typer takes what stands first for the default and sorts that out later.
        words = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))
        long = [word for word in words if isinstance(word, str) and word.startswith("--")]
        option = long[0].partition("/")[0] if long else f"--{name.replace('_', '-')}"
    return Parameter(option, TYPES.get(kind, "string"), many, required, getattr(info, "help", None) or "")


def _unwrapped(hint: Any) -> tuple[Any, Any]:
    """The type under Annotated and `| None`, in any order, and typer's description of it, if there is one."""
    about: Any = None
    while typing.get_origin(hint) in (typing.Annotated, typing.Union, types.UnionType):
        if typing.get_origin(hint) is typing.Annotated:
            hint, *more = typing.get_args(hint)
            about = next((one for one in more if isinstance(one, OptionInfo | ArgumentInfo)), about)
        else:
            hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint, about


def answer(request: Any, *, time_limit: float | None = None) -> dict[str, Any]:
    """Carry out one request; never raises. time_limit: seconds, then the command is killed."""
    if not isinstance(request, Mapping) or not isinstance(request.get("action"), str):
        return _refused('a request is a JSON object such as {"action": "records list"}')
    action = " ".join(request["action"].replace(".", " ").replace("_", " ").split())
    operation = operations().get(action)
    if operation is None:
        return _refused(f"unknown action {request['action']!r}: known are {', '.join(operations())}")
    try:
        words = _words(operation, {name: value for name, value in request.items() if name != "action"})
    except ValueError as error:
        return _refused(f"{action}: {error}")
    return _ran(operation, [sys.executable, "-m", "topfive", *action.split(), *words], time_limit)


def _refused(error: str) -> dict[str, Any]:
    return {"return": 2, "error": error}


def _words(operation: Operation, given: Mapping[str, Any]) -> list[str]:
    """The command line of the given parameters. Raises ValueError naming what does not fit."""
    options: list[str] = []
    arguments: list[str] = []
    for name in given:
        if name.replace("-", "_") not in operation.parameters:
            raise ValueError(f"unknown parameter {name!r}: known are {', '.join(operation.parameters)}")
    values = {name.replace("-", "_"): value for name, value in given.items()}
    for name, parameter in operation.parameters.items():
        value = values.get(name)
        if value is None:
            continue
        for item in value if isinstance(value, list) and parameter.many else [value]:
            _check(name, item, parameter)
            if not parameter.option:
                arguments.append(str(item))
            elif isinstance(item, bool):
                options += [parameter.option] if item else []
            else:
                options.append(f"{parameter.option}={item}")
    json_word = ["--json"] if operation.prints_json else []
    return [*options, *json_word, *(["--", *arguments] if arguments else [])]


def _check(name: str, item: Any, parameter: Parameter) -> None:
    if isinstance(item, bool) != (parameter.type == "boolean") or not isinstance(
        item, NUMBERS[parameter.type]
    ):
        article = "an" if parameter.type[0] in "aeiou" else "a"
        raise ValueError(f"{name!r} is not {article} {parameter.type}: {item!r}")


def _ran(operation: Operation, command: list[str], time_limit: float | None) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=time_limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"return": CRASHED, "error": f"{operation.action} took longer than {time_limit:g} s"}
    except (ValueError, OSError) as error:
        # Zero bytes, lone surrogates, more than a command line can carry.
        return _refused(f"{operation.action}: a parameter cannot be passed on: {error}")
    result: Any = None
    if done.stdout.strip():
        try:
            result = json.loads(done.stdout)
        except ValueError:
            result = {"text": done.stdout}
    if done.returncode == 0:
        return {"return": 0, "result": result}
    text = done.stderr.strip().removeprefix("topfive: ")
    if done.returncode == 1 and result is not None:
        return {"return": 1, "error": "a comparison failed", "result": result}
    code = 2 if done.returncode == 2 else CRASHED
    return {"return": code, "error": text or f"exit status {done.returncode}", "result": result}
