"""Gemmini hardware descriptions: TOML files that give the parameters which decide tiling and modelled cycles.

The descriptions that come with topfive are the files of the folder `hardware` beside this module. The keys
are those of the generator's C header (gemmini_params.h) in plain words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from topfive.cards.schema import load_named, named_files, read_named
from topfive.errors import CardError

__all__ = [
    "DATAFLOWS",
    "Hardware",
    "as_hardware",
    "hardware_names",
    "load_hardware",
    "read_hardware",
    "scaled",
]

FOLDER = Path(__file__).resolve().parent / "hardware"
DATAFLOWS = ("ws", "os")
"""Weight stationary and output stationary."""

_LIMITS = {
    "dim": 256,
    "banks": 64,
    "bank_rows": 1 << 20,
    "accumulator_rows": 1 << 20,
    "element_bytes": 8,
    "accumulator_bytes": 8,
    "bus_bytes": 1024,
    "max_bytes": 4096,
    "max_block_length": 1024,
    "max_block_length_accumulator": 1024,
    "clock_mhz": 100_000,
}


@dataclass(frozen=True)
class Hardware:
    """One Gemmini instance.

    dim: rows and columns of the systolic array (DIM). banks, bank_rows: scratchpad banks and their rows; a
    row is dim elements. accumulator_rows: rows of dim accumulators. element_bytes, accumulator_bytes: size of
    an input and of an accumulator. bus_bytes: bytes a cycle on the memory bus. max_bytes: bytes in one memory
    request. max_block_length, max_block_length_accumulator: how many dim-wide blocks one move-in takes, into
    the scratchpad and into the accumulator. first_layer: whether several pixels of a layer with few channels
    share a row. dataflows: which of "ws" and "os" are built. clock_mhz: the clock at which latencies are
    stated; an assumption, not a property of the design.
    """

    name: str
    description: str
    source: str
    dim: int
    banks: int
    bank_rows: int
    accumulator_rows: int
    element_bytes: int
    accumulator_bytes: int
    bus_bytes: int
    max_bytes: int
    max_block_length: int
    max_block_length_accumulator: int
    first_layer: bool
    dataflows: tuple[str, ...]
    clock_mhz: int
    path: Path = field(default=Path(), metadata={"internal": True}, compare=False)

    @property
    def scratchpad_rows(self) -> int:
        """Rows of all scratchpad banks."""
        return self.banks * self.bank_rows

    @property
    def scratchpad_bytes(self) -> int:
        """Capacity of the scratchpad."""
        return self.scratchpad_rows * self.dim * self.element_bytes

    @property
    def accumulator_capacity(self) -> int:
        """Capacity of the accumulator in bytes."""
        return self.accumulator_rows * self.dim * self.accumulator_bytes

    @property
    def elements(self) -> int:
        """Multipliers in the array: the most multiply-accumulates in a cycle."""
        return self.dim * self.dim


def hardware_names(extra_dirs: Iterable[Path] = ()) -> list[str]:
    """The names of all descriptions, sorted."""
    return sorted({path.stem for path in named_files(FOLDER, extra_dirs)})


def load_hardware(name: str, extra_dirs: Sequence[Path] = ()) -> Hardware:
    """The description `name`, from topfive's own or from a folder of `extra_dirs`.

    Raises UnknownNameError with the nearest names, CardError if two files have the name or the file is
    malformed.
    """
    return load_named("Gemmini hardware", name, named_files(FOLDER, extra_dirs), read_hardware)


def read_hardware(path: Path) -> Hardware:
    """The description in a TOML file; CardError naming the file and the key that is wrong."""
    hardware = read_named(Hardware, path)
    _check(hardware, str(path))
    return hardware


def as_hardware(config: Hardware | str) -> Hardware:
    """The description that a name or the path of a TOML file stands for, or the description itself."""
    if not isinstance(config, str):
        return config
    return read_hardware(Path(config)) if config.endswith(".toml") else load_hardware(config)


def scaled(
    base: Hardware,
    *,
    dim: int | None = None,
    scratchpad_bytes: int | None = None,
    accumulator_bytes: int | None = None,
    bus_bytes: int | None = None,
) -> Hardware:
    """`base` with another array, capacities in bytes or bus; rows and block lengths follow.

    Block lengths are those of the generator: as many dim-wide blocks as one memory request holds, at least
    one (MAX_BLOCK_LEN in gemmini_params.h). Raises CardError for capacities that are not whole rows.
    """
    size = dim if dim is not None else base.dim
    if size < 1:
        raise CardError(f"hardware {base.name!r}: key 'dim' must be at least 1, not {size}")
    scratchpad = scratchpad_bytes if scratchpad_bytes is not None else base.scratchpad_bytes
    accumulator = accumulator_bytes if accumulator_bytes is not None else base.accumulator_capacity
    row = size * base.element_bytes
    accumulator_row = size * base.accumulator_bytes
    if scratchpad % (base.banks * row) or accumulator % accumulator_row:
        raise CardError(
            f"hardware {base.name!r}: {scratchpad} bytes of scratchpad and {accumulator} of accumulator are "
            f"not whole rows of {size} elements in {base.banks} banks; choose multiples of "
            f"{base.banks * row} and {accumulator_row}"
        )
    hardware = replace(
        base,
        name=f"{base.name}-{size}x{size}-{scratchpad}-{accumulator}",
        description=f"{base.name} scaled to {size}x{size}",
        dim=size,
        bank_rows=scratchpad // (base.banks * row),
        accumulator_rows=accumulator // accumulator_row,
        bus_bytes=bus_bytes if bus_bytes is not None else base.bus_bytes,
        max_block_length=max(base.max_bytes // row, 1),
        max_block_length_accumulator=max(base.max_bytes // accumulator_row, 1),
    )
    _check(hardware, f"hardware {hardware.name!r}")
    return hardware


def _check(hardware: Hardware, where: str) -> None:
    for key, most in _LIMITS.items():
        value = getattr(hardware, key)
        if not 1 <= value <= most:
            raise CardError(f"{where}: key {key!r} must be from 1 to {most}, not {value}")
    if not hardware.dataflows:
        raise CardError(f"{where}: key 'dataflows' must name at least one of {', '.join(DATAFLOWS)}")
    for flow in hardware.dataflows:
        if flow not in DATAFLOWS:
            raise CardError(
                f"{where}: key 'dataflows' holds {flow!r}; each must be one of {', '.join(DATAFLOWS)}"
            )
    for key, row in (
        ("bank_rows", hardware.scratchpad_rows),
        ("accumulator_rows", hardware.accumulator_rows),
    ):
        # Half of each memory must take one block: the other half is the double buffer.
        if row < 4 * hardware.dim:
            raise CardError(
                f"{where}: key {key!r} leaves {row} rows; at least {4 * hardware.dim} are needed, 4 x dim"
            )
