"""From a float32 graph to a working directory with a compiled program."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.cache import file_sha256
from topfive.errors import CompileError, RunError
from topfive.graph import Graph, save_model
from topfive.targets.aic100.configuration import Configuration
from topfive.targets.aic100.device import too_many
from topfive.targets.aic100.opset import converted
from topfive.targets.aic100.options import PROVIDER
from topfive.targets.aic100.toolchain import (
    Tools,
    binary_folder,
    compile_command,
    find_tools,
    privileged,
    query_device,
    run_command,
)
from topfive.targets.aic100.work import (
    INPUT,
    MODEL,
    OUTPUT,
    PROGRAM,
    input_flags,
    lay_out,
    new_folder,
    write_commands,
    write_input,
)
from topfive.targets.tools import run_tool
from topfive.targets.twins.float16 import LARGEST

if TYPE_CHECKING:
    from topfive.targets.aic100.target import Aic100Target

__all__ = [
    "BATCH_SYMBOL",
    "GENERATED",
    "clip_weights",
    "compile_program",
    "named_as_exported",
    "seeded_input",
]

BATCH_SYMBOL = "batch_size"
GENERATED = "Generated binary is present at"
SEED = 0


def compile_program(target: Aic100Target, model: onnx.ModelProto, out: Path) -> dict[str, Any]:
    """Fill `out` and return the artifact's meta fields. Raises CompileError, OptionError.

    model: float32, one input [batch, ...], one output [batch, ...]. Without a compiler the model alone is
    written, if ONNX Runtime's provider is to compile it.
    """
    tools = find_tools()
    by_provider = target.setting("runtime") == PROVIDER
    if not by_provider and (reason := tools.missing("compiler")):
        raise CompileError(reason)
    prepared, clipped = clip_weights(named_as_exported(converted(model, target.setting("opset"))))
    configuration = _fitted(target.configuration(), prepared)
    _check_size(target, tools, configuration)
    shape = (configuration.batch_size, *_picture(prepared))
    meta: dict[str, Any] = {
        "input": {"name": INPUT, "shape": list(shape), "dtype": "float32", "layout": _layout(shape)},
        "output_shape": _output_shape(prepared, configuration.batch_size),
        "configuration": configuration.as_json(),
        "symbols": _symbols(prepared, configuration),
        "clipped_weights": clipped,
        "float16_output": True,
        "tools": tools.identities(),
    }
    # Compiled elsewhere: when it fails, the cache removes what is in `out`.
    with new_folder(target.model) as folder:
        (folder / MODEL).parent.mkdir()
        save_model(prepared, folder / MODEL)
        lay_out(folder, configuration)
        write_input(folder, seeded_input(shape))
        if tools.compiler:
            meta |= _compiled(target, tools, configuration, meta, folder)
        shutil.copytree(folder, out, dirs_exist_ok=True)
    return meta


def _compiled(
    target: Aic100Target, tools: Tools, configuration: Configuration, meta: Mapping[str, Any], work: Path
) -> dict[str, Any]:
    """Run the compiler in the working directory, and make sure that it made the program that it says."""
    command = compile_command(str(tools.compiler), configuration, meta["symbols"])
    measure = run_command(
        tools.runner or "qaic-runner",
        configuration,
        seconds=int(target.options["time"].default),
        device=int(target.options["device"].default),
        inputs=input_flags("json", meta["input"]["shape"]),
    )
    texts = [shlex.join(words) for words in (command, [*privileged("auto"), *measure])]
    write_commands(work, configuration, texts)
    limit = float(target.setting("compile-limit"))
    run = run_tool(command, folder=work, logs=work, name="compile", seconds=limit, error=CompileError)
    program = work / binary_folder(configuration) / PROGRAM
    tool = Path(command[0]).name
    if not program.is_file() or not program.stat().st_size:
        raise CompileError(f"{tool} made no {PROGRAM}, but exits with status 0", details=run.shown())
    if GENERATED not in run.stdout:
        raise CompileError(f"{tool} does not say {GENERATED!r}", details=run.shown())
    return {"command": run.text, "program_sha256": file_sha256(program), "compile_seconds": run.seconds}


def named_as_exported(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the names that run_cv_classifier.py exports: input, output, dimension batch_size.

    They become names of files and flags. Raises CompileError for an input that is not float32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise CompileError(
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs: one of each is wanted"
        )
    (given,), (made,) = graph.inputs, graph.outputs
    if given.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise CompileError(f"the input {given.name!r} is not float32")
    renamed = {given.name: INPUT, made.name: OUTPUT}
    taken = {name for node in graph.nodes for name in (*node.input, *node.output)}
    for name in {INPUT, OUTPUT} - renamed.keys():
        renamed[name] = next(new for n in count() if (new := f"{name}.{n}") not in taken)
    for node in graph.nodes:
        _rename(node, renamed)
    graph.constants = {renamed.get(name, name): value for name, value in graph.constants.items()}
    graph.value_info = []
    for value in (given, made):
        value.name = renamed[value.name]
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.HasField("dim_value"):
            batch.dim_param = BATCH_SYMBOL
    return graph.to_model()


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Rename what a node reads and makes, and what graphs inside it read from around them."""
    for names in (node.input, node.output):
        names[:] = [renamed.get(name, name) for name in names]
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else ():
            own = {value.name for value in (*inner.input, *inner.initializer)}
            own |= {name for made in inner.node for name in made.output}
            for made in inner.node:
                _rename(made, {name: new for name, new in renamed.items() if name not in own})


def clip_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Weights beyond float16's range clipped to +-65504, and how many of each tensor: fix_onnx_fp16's."""
    graph = Graph(model)
    clipped = {}
    for name, values in graph.constants.items():
        beyond = int((np.abs(values) > LARGEST).sum()) if values.dtype == np.float32 else 0
        if beyond:
            clipped[name] = beyond
            graph.constants[name] = np.clip(values, -LARGEST, LARGEST)
    return graph.to_model(), clipped


def _dims(model: onnx.ModelProto) -> list[int | str]:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]


def _picture(model: onnx.ModelProto) -> tuple[int, ...]:
    """The input's dimensions without the batch; CompileError when one is not a number."""
    picture = _dims(model)[1:]
    if not all(isinstance(size, int) for size in picture):
        raise CompileError(
            f"the input's dimensions {picture} are not all fixed: export the model for one size"
        )
    return tuple(int(size) for size in picture)


def _layout(shape: tuple[int, ...]) -> str:
    return "NHWC" if len(shape) == 4 and shape[1] not in (1, 3, 4) else "NCHW"


def _symbols(model: onnx.ModelProto, configuration: Configuration) -> dict[str, int]:
    """What -onnx-define-symbol has to define: nothing for a model whose batch size is fixed."""
    return {BATCH_SYMBOL: configuration.batch_size} if _dims(model)[0] == BATCH_SYMBOL else {}


def _output_shape(model: onnx.ModelProto, batch: int) -> list[int]:
    shape = Graph(model).shapes().get(OUTPUT, ())[1:]
    if not shape or not all(isinstance(size, int) for size in shape):
        raise CompileError(f"the output's dimensions {list(shape)} are not all known")
    return [batch, *(int(size) for size in shape)]


def _fitted(configuration: Configuration, model: onnx.ModelProto) -> Configuration:
    """The configuration with the model's own sizes; CompileError where an option asks for others."""
    batch, picture = _dims(model)[0], _picture(model)
    sizes = sorted(set(picture if _layout((1, *picture)) == "NHWC" else picture[1:]) - {1, 3, 4})
    chosen = configuration.origins
    notes = list(configuration.notes)
    if isinstance(batch, int) and batch != configuration.batch_size:
        if chosen["batch-size"] == "option":
            raise CompileError(
                f"the model's batch size is fixed at {batch}: --option batch-size={configuration.batch_size} "
                "needs a model with a batch of any size"
            )
        notes.append(f"the model's batch size is fixed at {batch}")
        configuration = replace(configuration, batch_size=batch, published=None)
    if [configuration.image_size] != sizes:
        size = "x".join(map(str, picture))
        if chosen["image-size"] == "option":
            raise CompileError(
                f"the model takes pictures of {size}: --option image-size={configuration.image_size} needs a "
                "model card of that size"
            )
        if chosen["image-size"] == "table":
            notes.append(f"the table's row is for size {configuration.image_size}, the model takes {size}")
            configuration = replace(configuration, published=None)
        configuration = replace(configuration, image_size=sizes[-1] if sizes else 0)
    return replace(configuration, notes=tuple(notes))


def _check_size(target: Aic100Target, tools: Tools, configuration: Configuration) -> None:
    """CompileError for more NSPs than the device has, or, where there is none here, than any AI 100 has."""
    total = None
    if tools.utility is not None:
        prefix = privileged(target.setting("sudo"))
        try:
            with tempfile.TemporaryDirectory(prefix="topfive-aic100-") as folder:
                device = int(target.setting("device"))
                total = query_device(tools.utility, prefix, device, Path(folder)).nsp_total
        except RunError:
            # A machine that only compiles needs no device: opening the artifact says what is wrong with it.
            total = None
    if reason := too_many(configuration.cores, configuration.instances, total):
        raise CompileError(reason)


def seeded_input(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Normally distributed numbers, the same ones every time."""
    return np.random.default_rng(SEED).standard_normal(shape, np.float32)
