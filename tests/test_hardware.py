"""Hardware descriptions: what ships, strict loading, scaling."""

from __future__ import annotations

from pathlib import Path

import pytest

from topfive.errors import CardError, UnknownNameError
from topfive.targets.gemmini.hardware import (
    FOLDER,
    as_hardware,
    hardware_names,
    load_hardware,
    read_hardware,
    scaled,
)

DEFAULT = (FOLDER / "default.toml").read_text()
KIB = 1024


def written(folder: Path, *changes: tuple[str, str], name: str = "mine") -> Path:
    text = DEFAULT.replace('name = "default"', f'name = "{name}"')
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


# Scratchpad and accumulator in KiB, blocks that one move-in takes into each.
@pytest.mark.parametrize(
    ("name", "dim", "scratchpad", "accumulator", "blocks"),
    [
        ("chip", 16, 64, 32, (4, 1)),
        ("default", 16, 256, 64, (4, 1)),
        ("dim32", 32, 512, 128, (2, 1)),
        ("dim8", 8, 256, 64, (8, 2)),
        ("fp32_dim4", 4, 256, 64, (4, 4)),
        ("large_chip", 32, 128, 64, (2, 1)),
        ("lean", 16, 256, 64, (4, 1)),
    ],
    ids=["chip", "default", "dim32", "dim8", "fp32_dim4", "large_chip", "lean"],
)
def test_what_ships(name: str, dim: int, scratchpad: int, accumulator: int, blocks: tuple[int, int]) -> None:
    hardware = load_hardware(name)
    assert (hardware.dim, hardware.elements) == (dim, dim * dim)
    assert hardware.scratchpad_bytes == scratchpad * KIB
    assert hardware.accumulator_capacity == accumulator * KIB
    assert (hardware.max_block_length, hardware.max_block_length_accumulator) == blocks
    assert hardware.path == FOLDER / f"{name}.toml"


def test_all_are_named_and_read() -> None:
    names = hardware_names()
    assert names == ["chip", "default", "dim32", "dim8", "fp32_dim4", "large_chip", "lean"]
    assert [load_hardware(name).name for name in names] == names


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown Gemmini hardware 'dim23': did you mean dim32"):
        load_hardware("dim23")


def test_a_name_or_a_description() -> None:
    assert as_hardware("lean") == load_hardware("lean")
    assert as_hardware(load_hardware("lean")) == load_hardware("lean")


def test_a_file_of_ones_own_by_its_path(tmp_path: Path) -> None:
    path = written(tmp_path, ("dim = 16", "dim = 32"))
    assert as_hardware(str(path)).dim == 32
    with pytest.raises(CardError, match=r"absent\.toml: cannot be read"):
        as_hardware(str(tmp_path / "absent.toml"))


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    written(tmp_path, ("bank_rows = 4096", "bank_rows = 8192"))
    assert "mine" in hardware_names([tmp_path])
    assert load_hardware("mine", [tmp_path]).scratchpad_bytes == 512 * KIB
    written(tmp_path, name="default")
    with pytest.raises(CardError, match="hardware 'default' is defined twice"):
        load_hardware("default", [tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("banks = 4", "bank = 4"), "unknown key 'bank': did you mean 'banks'"),
        (("dim = 16\n", ""), "key 'dim' is missing"),
        (("dim = 16", 'dim = "16"'), "key 'dim' must be a whole number, not the string '16'"),
        (("dim = 16", "dim = 0"), "key 'dim' must be from 1 to 256, not 0"),
        (("clock_mhz = 1000", "clock_mhz = -5"), "key 'clock_mhz' must be from 1 to 100000, not -5"),
        (('"os"]', '"so"]'), "key 'dataflows' holds 'so'; each must be one of ws, os"),
        (('["ws", "os"]', "[]"), "key 'dataflows' must name at least one of ws, os"),
        (("bank_rows = 4096", "bank_rows = 15"), "key 'bank_rows' leaves 60 rows; at least 64 are needed"),
        (("accumulator_rows = 1024", "accumulator_rows = 63"), "key 'accumulator_rows' leaves 63 rows"),
        (("first_layer = true", "first_layer = 1"), "key 'first_layer' must be true or false"),
        (("banks = 4", "banks = "), "is not valid TOML"),
    ],
    ids=[
        "unknown", "missing", "string", "zero", "negative", "dataflow", "no_dataflow", "few_rows",
        "few_accumulators", "not_boolean", "not_toml",
    ],
)  # fmt: skip
def test_bad_descriptions_name_file_and_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = written(tmp_path, change)
    with pytest.raises(CardError) as caught:
        read_hardware(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message


def test_the_name_is_the_file_name(tmp_path: Path) -> None:
    path = written(tmp_path, ('name = "mine"', 'name = "other"'))
    with pytest.raises(CardError, match="key 'name' is 'other'; it must be the file's name, 'mine'"):
        read_hardware(path)


def test_scaling_keeps_capacities_and_derives_blocks() -> None:
    base = load_hardware("default")
    eight = scaled(base, dim=8)
    assert (eight.bank_rows, eight.accumulator_rows) == (8192, 2048)
    assert (eight.max_block_length, eight.max_block_length_accumulator) == (8, 2)
    assert eight.scratchpad_bytes == base.scratchpad_bytes
    wide = scaled(base, dim=64, scratchpad_bytes=512 * KIB, accumulator_bytes=128 * KIB, bus_bytes=32)
    assert (wide.bank_rows, wide.accumulator_rows, wide.bus_bytes) == (2048, 512, 32)
    assert (wide.max_block_length, wide.max_block_length_accumulator) == (1, 1)


def test_what_cannot_be_scaled() -> None:
    base = load_hardware("default")
    with pytest.raises(CardError, match="are not whole rows of 16 elements in 4 banks"):
        scaled(base, scratchpad_bytes=1000)
    with pytest.raises(CardError, match="key 'dim' must be at least 1, not 0"):
        scaled(base, dim=0)
    with pytest.raises(CardError, match="key 'accumulator_rows' leaves 4 rows"):
        scaled(base, dim=256, accumulator_bytes=4 * KIB)
