"""What is installed: TensorRT, cuda-python, trtexec, the GPU and its driver."""

from __future__ import annotations

import importlib
import re
from dataclasses import asdict, dataclass
from types import ModuleType

from topfive.errors import RunError
from topfive.targets.packages import is_installed, package_docstring
from topfive.targets.tools import ask_tool, find_tool, is_emulated, printed_by, said_about_itself

__all__ = [
    "API",
    "EXPLICIT_ONLY",
    "SIMULATED",
    "TRTEXEC",
    "Gpu",
    "emulated",
    "find_trtexec",
    "find_version",
    "gpu",
    "missing",
    "tensorrt",
]

API, TRTEXEC = "api", "trtexec"
FOLDERS = ("/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin", "/opt/tensorrt/bin")
SMI = "nvidia-smi"
SMI_SECONDS = 60.0
EXPLICIT_ONLY = 11
"""The first major version without implicit int8, calibrators and precision flags: networks are strongly typed
(docs.nvidia.com/deeplearning/tensorrt/11.0.0/api/migration)."""
SIMULATED = (
    "emulated tools, TensorRT's documented arithmetic on the CPU; throughput and times are the CPU's, "
    "not a GPU's"
)
HELP = "--help"
HELP_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
PACKAGES = {
    "tensorrt": "pip install 'topfive[tensorrt]'",
    "cuda.bindings.runtime": "pip install 'topfive[tensorrt]' (cuda-python)",
}


@dataclass(frozen=True)
class Gpu:
    """The GPU that an engine is built on and runs on: its name, its driver's version, compute capability."""

    name: str
    driver: str
    capability: str

    def as_json(self) -> dict[str, str]:
        """Its fields."""
        return asdict(self)


def tensorrt() -> ModuleType:
    """The module `tensorrt`."""
    return importlib.import_module("tensorrt")


def find_trtexec() -> str | None:
    """The path of trtexec: in PATH, or where TensorRT's packages install it."""
    return find_tool(TRTEXEC, FOLDERS)


def gpu(device: int = 0) -> Gpu:
    """The GPU of this number, as nvidia-smi names it. Raises RunError when there is none."""
    tool = find_tool(SMI)
    if tool is None:
        raise RunError(f"{SMI} is not in PATH: install NVIDIA's driver")
    command = [tool, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader", f"--id={device}"]
    try:
        done = ask_tool(command, SMI_SECONDS)
    except OSError as error:
        raise RunError(f"{SMI} does not run: {error}") from None
    rows = [line for line in done.stdout.splitlines() if line.strip()]
    said = f"{done.stdout}{done.stderr}".strip()
    if done.returncode or len(rows) != 1:
        raise RunError(f"there is no GPU {device}: {(said.splitlines() or ['nvidia-smi says nothing'])[0]}")
    fields = [field.strip() for field in rows[0].split(",")]
    form = (r"\S.*", r"\d+(\.\d+)+", r"\d+\.\d+")
    if len(fields) != len(form) or not all(re.fullmatch(f, v) for f, v in zip(form, fields, strict=True)):
        raise RunError(f"{SMI} printed another form than name, driver, compute capability", details=rows[0])
    return Gpu(*fields)


def missing(way: str, device: int = 0) -> str:
    """Why nothing runs here in this way, naming exactly what is missing, or ""."""
    reasons = []
    if way == API:
        reasons += [
            f"the Python package {name.partition('.')[0]} is not installed: {how}"
            for name, how in PACKAGES.items()
            if not is_installed(name)
        ]
    elif find_trtexec() is None:
        reasons.append(f"{TRTEXEC} is not in PATH or {FOLDERS[0]}: install TensorRT")
    try:
        gpu(device)
    except RunError as error:
        reasons.append(error.message)
    return "; ".join(reasons)


def find_version(way: str) -> str:
    """TensorRT's version, "10.13.3" or longer; "absent" where it is not installed.

    way: the library's, or trtexec's, whose help prints it as one number: 101303 is 10.13.3, 8601 is 8.6.1.
    """
    if way == API:
        return str(tensorrt().__version__) if is_installed("tensorrt") else "absent"
    tool = find_trtexec()
    if tool is None:
        return "absent"
    found = HELP_VERSION.search(printed_by((tool, HELP)) or "")
    return _dotted(int(found[1])) if found else "unknown"


def _dotted(number: int) -> str:
    if number >= 100000:
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def emulated() -> bool:
    """Whether a library or tool that is found says that it is emulated."""
    if is_emulated(package_docstring("tensorrt")):
        return True
    tools = [tool for tool in (find_trtexec(), find_tool(SMI)) if tool is not None]
    return any(is_emulated(said_about_itself((tool, HELP))) for tool in tools)
