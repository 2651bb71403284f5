"""The program's text: a C file that calls the runtime, and the plan that tells how to read its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from topfive.errors import CompileError
from topfive.graph import Graph
from topfive.targets.gemmini_qemu.emitter import Emitter, Step
from topfive.targets.gemmini_qemu.kit import SCALAR, Kit
from topfive.targets.gemmini_qemu.memory import ALIGNMENT, Lifetime, plan
from topfive.targets.gemmini_qemu.tensors import Tensor

__all__ = ["Program", "emit"]

HEADER = """/* {title}: made by topfive, to be compiled with the runtime beside it. */
{includes}

extern const unsigned char topfive_data[];
#define D(offset) ((const void *)(topfive_data + (offset)))
/* A block of channels may be read past a tensor's end, and multiplied by 0. */
static unsigned char arena[{arena} + {alignment}] __attribute__((aligned({alignment})));
static unsigned char scratch[{scratch}] __attribute__((aligned({alignment})));
const int8_t topfive_zeros[{zeros}];
"""
MAIN = """
int topfive_main(int argument_count, char **arguments)
{{
    if (argument_count < 3)
        topfive_fail("usage: program INPUT OUTPUT [all]");
    int input = topfive_open_input(arguments[1]), output = topfive_open_output(arguments[2]);
    int all = argument_count > 3;
    int64_t images = 0;
{start}
    for (; topfive_read(input, {input}, {size}); images++) {{
        run(all, output);
{outputs}
    }}
    topfive_say_done(images);
    return 0;
}}
"""


@dataclass(frozen=True)
class Program:
    """A program to compile. `layout` is the JSON that `QemuRunner` reads."""

    text: str
    data: bytes
    layout: dict[str, Any]


def emit(model: onnx.ModelProto, title: str, kit: Kit = SCALAR) -> Program:
    """Turn an int8 graph into a program that runs one picture after the other.

    Raises CompileError naming the nodes and operators that have no C form.
    """
    graph = Graph(model)
    if len(graph.inputs) != 1:
        raise CompileError(f"the graph has {len(graph.inputs)} inputs; a program reads one")
    names = graph.input_names[0], list(graph.output_names)
    emitter = Emitter(graph, kit.rules)
    emitter.run()
    outputs = [emitter.tensor(name) for name in names[1]]
    source = emitter.tensors[names[0]]
    offsets, arena = plan(_lifetimes(emitter, source, outputs))
    lines = [
        HEADER.format(
            title=title,
            includes="\n".join(f'#include "{name}"' for name in kit.headers),
            arena=max(arena, ALIGNMENT),
            alignment=ALIGNMENT,
            scratch=max(emitter.scratch, ALIGNMENT),
            zeros=emitter.zeros,
        )
    ]
    lines += [f"#define B{i} ((void *)(arena + {offset}))" for i, offset in enumerate(offsets)]
    for step in emitter.steps:
        lines += step.declarations
    lines += ["", "static void run(int all, int output)", "{", "    (void)all, (void)output;"]
    for step in emitter.steps:
        lines += _step_text(step)
    lines.append("}")
    written = "\n".join(f"        topfive_write(output, {t.address}, {t.size});" for t in outputs)
    start = f"    {kit.start}" if kit.start else ""
    lines.append(MAIN.format(input=source.address, size=source.size, outputs=written, start=start))
    return Program("\n".join(lines), emitter.data.content(), _layout(emitter, source, outputs, arena))


def _lifetimes(emitter: Emitter, source: Tensor, outputs: list[Tensor]) -> list[Lifetime]:
    count = len(emitter.steps)
    first, last = {source.storage: -1}, {source.storage: 0}
    for number, step in enumerate(emitter.steps):
        first.setdefault(step.writes, number)
        for storage in step.inner:
            first.setdefault(storage, number)
        for storage in (*step.reads, step.writes, *step.inner):
            last[storage] = number
    for tensor in outputs:
        last[tensor.storage] = count
    return [Lifetime(size, first[i], last[i]) for i, size in enumerate(emitter.sizes)]


def _step_text(step: Step) -> list[str]:
    lines = [f"    /* {step.title.replace('*/', '* /')} */"]
    shown = [f"        topfive_write(output, {t.address}, {t.size});" for t in step.shown]
    for code, tensor in step.before:
        lines += ["    if (all) {", *_indented(code, 8)]
        lines += [f"        topfive_write(output, {tensor.address}, {tensor.size});", "    }"]
    lines += _indented(step.code, 4)
    return [*lines, "    if (all) {", *shown, "    }"] if shown else lines


def _indented(code: list[str], width: int) -> list[str]:
    return [" " * width + line for text in code for line in text.splitlines()]


def _layout(emitter: Emitter, source: Tensor, outputs: list[Tensor], arena: int) -> dict[str, Any]:
    tensors = []
    for step in emitter.steps:
        tensors += [*(tensor for _, tensor in step.before), *step.shown]
    found = {
        "input": _stored(source),
        "outputs": [_stored(tensor) for tensor in outputs],
        "tensors": [_stored(tensor) for tensor in tensors],
        "arena_bytes": arena,
        "products": sum(step.products for step in emitter.steps),
    }
    accelerated = [(step.title, step.accelerator) for step in emitter.steps if step.accelerator is not None]
    if accelerated:
        found["accelerator"] = [{"layer": title, "instructions": dict(n)} for title, n in accelerated]
    return found


def _stored(tensor: Tensor) -> dict[str, Any]:
    """How a tensor lies in the program's output."""
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "order": list(tensor.order),
    }
