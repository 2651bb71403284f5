"""The working directory of a model: the layout of run_cv_classifier.py.

    model/model.onnx          inputFiles/input_img_*.raw      inputFiles/aic_batch_io.json
    list_*.txt                compiled-bin-fp16-*/            outputFiles/fp16-*/           commands-*.txt

Commands run in it, with relative paths, so that it can be copied and they can be repeated by hand.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError, StageError
from topfive.targets.aic100.configuration import Configuration
from topfive.targets.aic100.toolchain import binary_folder, output_folder

__all__ = [
    "INPUT",
    "MODEL",
    "OUTPUT",
    "PROGRAM",
    "input_flags",
    "lay_out",
    "new_folder",
    "opened",
    "write_commands",
    "write_input",
]

MODEL = Path("model", "model.onnx")
PROGRAM = "programqpc.bin"
# Names of the model's input and output in the file that is compiled, and so of the files.
INPUT, OUTPUT = "input", "output"
BATCH_JSON = "aic_batch_io.json"
FLOAT_BYTES = 4


def lay_out(folder: Path, configuration: Configuration) -> None:
    """Make the folders that a command expects to exist; the compiled program's must not."""
    (folder / output_folder(configuration)).mkdir(parents=True)
    (folder / "inputFiles").mkdir()


def _raw(shape: Sequence[int]) -> str:
    return f"input_img_{'x'.join(map(str, shape))}.raw"


def write_input(folder: Path, batch: NDArray[np.float32]) -> None:
    """Write one batch as raw little-endian float32, and the two files that name it.

    list_*.txt: an inference a line, its files separated by commas. aic_batch_io.json: the same for
    --aic-batch-json-input; its paths start from its own folder.
    """
    name = _raw(batch.shape)
    (folder / "inputFiles" / name).write_bytes(np.ascontiguousarray(batch, "<f4").tobytes())
    listed = f"list_{'x'.join(map(str, batch.shape))}.txt"
    (folder / listed).write_text(f"./inputFiles/{name}", encoding="utf-8")
    described = {
        "path": name,
        "io-direction": "in",
        "elem-size": FLOAT_BYTES,
        "map-to": INPUT,
        "dims": list(batch.shape),
    }
    (folder / "inputFiles" / BATCH_JSON).write_text(
        json.dumps({"IO-files": [[described]]}, indent=1), encoding="utf-8"
    )


def input_flags(way: str, shape: Sequence[int]) -> list[str]:
    """How a command names the input. way: "json", or "file" for the older -i."""
    if way == "file":
        return ["-i", f"./inputFiles/{_raw(shape)}"]
    return ["--aic-batch-json-input", f"./inputFiles/{BATCH_JSON}"]


def write_commands(folder: Path, configuration: Configuration, commands: Sequence[str]) -> None:
    """Write the commands that make what is here, a blank line after each, the removal of the old first."""
    removal = f"rm -rf {binary_folder(configuration).removeprefix('./')}"
    text = "".join(f"{command}\n\n" for command in (removal, *commands))
    (folder / f"commands-{configuration.motif}.txt").write_text(text, encoding="utf-8")


@contextmanager
def new_folder(name: str, keep: str = "") -> Iterator[Path]:
    """A folder that nobody else has: removed at the end, but kept and named when what is inside fails.

    name: part of its own. keep: the folder in which it is made and stays; "" for a temporary one. Raises
    RunError when it cannot be made.
    """
    place = Path(keep).expanduser().resolve() if keep else None
    try:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-" if keep else f"topfive-aic100-{name}-", dir=place))
    except OSError as error:
        raise RunError(f"no working directory can be made: {error}") from None
    try:
        yield folder
    except StageError as error:
        kept = f"working directory kept: {folder}"
        details = f"{error.details}\n{kept}" if error.details else kept
        raise type(error)(error.message, details=details) from None
    except BaseException:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def opened(artifact: Path, configuration: Configuration, name: str, keep: str = "") -> Iterator[Path]:
    """A working directory for one run: model and program of an artifact, nothing of another run.

    name, keep: see `new_folder`. One that stays has copies, and needs the artifact no more.
    """
    with new_folder(name, keep) as folder:
        for part in (MODEL.parent, Path(binary_folder(configuration))):
            if keep:
                shutil.copytree(artifact / part, folder / part)
            else:
                (folder / part).symlink_to((artifact / part).resolve(), target_is_directory=True)
        lay_out(folder, configuration)
        yield folder
