"""From TOML to frozen dataclasses, strictly: every fault is a CardError that names file and key."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from topfive.errors import CardError, UnknownNameError

__all__ = ["Named", "Record", "fill", "load_named", "named_files", "read_named", "read_toml"]


class Named(Protocol):
    """A dataclass read from a TOML file of its own, with that file's name; `path` is metadata "internal"."""

    @property
    def name(self) -> str:
        """The file's name without its suffix."""

    @property
    def path(self) -> Path:
        """The file."""


Record = TypeVar("Record")
NamedRecord = TypeVar("NamedRecord", bound=Named)

_WANTED = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; unreadable, not UTF-8 or malformed is CardError naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CardError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except RecursionError as error:
        raise CardError(f"{path}: is nested too deeply to be a card") from error
    except ValueError as error:  # TOMLDecodeError, and the limit on the digits of an integer
        raise CardError(f"{path}: is not valid TOML: {error}") from error


def named_files(folder: Path, extra_dirs: Iterable[Path] = ()) -> list[Path]:
    """The TOML files of `folder`, which come with topfive, and of each folder of `extra_dirs`, once each."""
    folders = dict.fromkeys(place.resolve() for place in (folder, *extra_dirs))
    return [path for place in folders for path in sorted(place.glob("*.toml"))]


def load_named(
    kind: str, name: str, files: Iterable[Path], read: Callable[[Path], NamedRecord]
) -> NamedRecord:
    """What `read` makes of the one file of `files` that is called `name`.

    kind: what messages call such a thing. Raises UnknownNameError with the nearest names, CardError if two
    files have the name, and what `read` raises.
    """
    known = list(files)
    found = [path for path in known if path.stem == name]
    if not found:
        raise UnknownNameError(kind, name, {path.stem for path in known})
    if len(found) > 1:
        raise CardError(f"{kind} {name!r} is defined twice, in {found[0]} and in {found[1]}; rename one")
    return read(found[0])


def read_named(record: type[NamedRecord], path: Path) -> NamedRecord:
    """`record` from a TOML file, its field `path` set; CardError unless its name is the file's."""
    loaded = fill(record, read_toml(path), path)
    if loaded.name != path.stem:
        raise CardError(f"{path}: key 'name' is {loaded.name!r}; it must be the file's name, {path.stem!r}")
    placed: NamedRecord = dataclasses.replace(typing.cast("Any", loaded), path=path)
    return placed


def fill(record: type[Record], table: dict[str, Any], path: Path, section: str = "") -> Record:
    """Make `record` (a dataclass) from `table`; fields without a default are required.

    Field types may be str, int, float, bool, X | None, tuple[X, ...], tuple[X, X] and nested dataclasses.
    Raises CardError for unknown keys (naming the nearest valid one), missing keys and wrong types.
    """
    fields = _fields(typing.cast("Any", record))
    for key in table:
        if key not in fields:
            raise CardError(f"{path}: unknown key {_dotted(section, key)!r}: {_hint(key, fields)}")
    values = {}
    for key, (kind, required) in fields.items():
        if key in table:
            values[key] = _convert(kind, table[key], path, _dotted(section, key))
        elif required:
            wanted = "a table" if dataclasses.is_dataclass(kind) else _wanted(kind)
            raise CardError(f"{path}: key {_dotted(section, key)!r} is missing: it must be {wanted}")
    return record(**values)


def _dotted(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _hint(key: str, fields: dict[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(fields)}"


@functools.cache
def _fields(record: type) -> dict[str, tuple[Any, bool]]:
    """Key -> (type, required) of the fields that come from the file (not those with metadata 'internal')."""
    hints = typing.get_type_hints(record)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(record)
        if not field.metadata.get("internal")
    }


def _wanted(kind: Any) -> str:
    if kind in _WANTED:
        return _WANTED[kind]
    items = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return _wanted(items[0])
    if items[-1] is Ellipsis:
        return f"a list, each item {_wanted(items[0])}"
    return f"a list of {len(items)}, each item {_wanted(items[0])}"


def _convert(kind: Any, value: Any, path: Path, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise CardError(f"{path}: key {key!r} must be a table ([{key}]), not {_shown(value)}")
        return fill(typing.cast("type[Any]", kind), value, path, key)
    if isinstance(kind, types.UnionType):
        return _convert(typing.get_args(kind)[0], value, path, key)
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        if not isinstance(value, list) or (items[-1] is not Ellipsis and len(value) != len(items)):
            raise _wrong(kind, value, path, key)
        return tuple(_convert(items[0], item, path, f"{key}[{n}]") for n, item in enumerate(value))
    return _scalar(kind, value, path, key)


def _scalar(kind: Any, value: Any, path: Path, key: str) -> Any:
    if kind is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise CardError(f"{path}: key {key!r} must be a finite number, not {_shown(value)}")
        return number
    if type(value) is not kind:  # not isinstance: true is no whole number here
        raise _wrong(kind, value, path, key)
    if kind is str and "\x00" in value:
        raise CardError(f"{path}: key {key!r} holds a NUL character; remove it")
    return value


def _wrong(kind: Any, value: Any, path: Path, key: str) -> CardError:
    return CardError(f"{path}: key {key!r} must be {_wanted(kind)}, not {_shown(value)}")


def _shown(value: Any) -> str:
    names = {
        str: "the string",
        int: "the number",
        float: "the number",
        bool: "",
        list: "the list",
        dict: "a table",
    }
    name = names.get(type(value), f"the {type(value).__name__}")
    if isinstance(value, dict):
        return name
    try:
        text = repr(value) if type(value) is not bool else str(value).lower()
    except ValueError:  # a hexadecimal integer too long to be printed in decimal
        return f"{name} of {value.bit_length()} bits"
    return f"{name} {text if len(text) <= 60 else text[:57] + '...'}".strip()
