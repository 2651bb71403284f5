"""getopt_long_only(3): long options with one dash or two, `-x` never the beginning of a long one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class UnknownOptionError(Exception):
    """An option that there is not, or one without its value."""


def parse(
    arguments: Sequence[str], short: str, long: Mapping[str, tuple[bool, str]]
) -> tuple[list[tuple[str, str]], list[str]]:
    """(options as (name, value), other arguments).

    short: as getopt(3) takes it. long: name -> (whether it takes a value, the name it is told as).
    """
    takes = {letter: short[at + 1 : at + 2] == ":" for at, letter in enumerate(short) if letter != ":"}
    found: list[tuple[str, str]] = []
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument == "--" or not argument.startswith("-") or argument == "-":
            rest += [*queue] if argument == "--" else [argument]
            queue = [] if argument == "--" else queue
            continue
        two = argument.startswith("--")
        body = argument[2 if two else 1 :]
        if not two and len(body) == 1 and body in takes:
            found.append((body, _value(argument, takes[body], None, queue)))
            continue
        name, separator, value = body.partition("=")
        match = _match(name, long)
        if match is not None:
            wants, told = long[match]
            if separator and not wants:
                raise UnknownOptionError(f"option '{argument.partition('=')[0]}' doesn't allow an argument")
            found.append((told, _value(argument, wants, value if separator else None, queue)))
        elif not two and body[0] in takes:
            _cluster(body, takes, found, queue)
        else:
            raise UnknownOptionError(f"unrecognized option '{argument}'")
    return found, rest


def _match(name: str, long: Mapping[str, tuple[bool, str]]) -> str | None:
    if name in long:
        return name
    near = [known for known in long if known.startswith(name)]
    if len(near) > 1:
        raise UnknownOptionError(f"option '{name}' is ambiguous")
    return near[0] if near else None


def _value(argument: str, wants: bool, given: str | None, queue: list[str]) -> str:
    if not wants:
        return ""
    if given is None and not queue:
        raise UnknownOptionError(f"option '{argument}' requires an argument")
    return queue.pop(0) if given is None else given


def _cluster(body: str, takes: Mapping[str, bool], found: list[tuple[str, str]], queue: list[str]) -> None:
    """`-d0`, or several letters without values."""
    for at, letter in enumerate(body):
        if letter not in takes:
            raise UnknownOptionError(f"invalid option -- '{letter}'")
        if takes[letter]:
            found.append((letter, body[at + 1 :] or _value(f"-{letter}", True, None, queue)))
            return
        found.append((letter, ""))
