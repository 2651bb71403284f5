"""The stand-in for spike: it stops at what Gemmini's ISA forbids or leaves open, and says why."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from topfive.targets.gemmini_qemu import toolchain
from topfive.targets.gemmini_qemu.emulator import find_emulator
from topfive.targets.gemmini_qemu.kit import RUNTIME as SCALAR_RUNTIME
from topfive.targets.gemmini_spike.kit import HOSTED, RUNTIME

from simulators import MISSING, STAND_IN

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "-")

# A block of 16 x 16 codes, of sums, and results; operands of 16 x 16 at a local address.
BEGINNING = """
#include "gemmini_layers.h"

static int8_t codes[1024], results[1024] __attribute__((aligned(64)));
static int32_t sums[256];
static const int8_t constants[256];
static const gemmini_pool NONE;
#define AT(address) gemmini_block(address, 16, 16)
#define ISSUE(funct, rs1, rs2) GEMMINI_ISSUE(funct, (uint64_t)(rs1), (uint64_t)(rs2))
#define NOWHERE AT(GEMMINI_NOWHERE)
#define ACC GEMMINI_ACC

/* A in rows 0 to 15, B behind it, sums of 0 in the accumulator. */
static void ready(int dataflow)
{
    gemmini_begin();
    gemmini_config_ex(dataflow, 1);
    for (int id = 0; id < 2; id++)
        gemmini_config_ld(id, 16, 16, 1, 0, 1.0f);
    gemmini_config_ld(2, 64, 16, 1, 0, 1.0f);
    gemmini_config_st(16, 0, 1.0f, NONE);
    for (int i = 0; i < 256; i++)
        codes[i] = (int8_t)(i % 16 == i / 16 ? 3 : 0);
    gemmini_mvin(codes, 0, 16, 16);
    gemmini_mvin(codes, 16, 16, 16);
    gemmini_mvin3(sums, ACC, 16, 16);
    gemmini_fence();
}
"""
MAIN = """
int topfive_main(int argument_count, char **arguments)
{
    (void)argument_count, (void)codes, (void)results, (void)sums, (void)constants, (void)ready, (void)NONE;
    switch (atoi(arguments[1])) {
%s
    }
    topfive_say_done(0);
    return 0;
}
"""
WS = "ready(GEMMINI_WEIGHT_STATIONARY);"
OS = "ready(GEMMINI_OUTPUT_STATIONARY);"
STORED = f"{WS} gemmini_mvout(results, ACC, 16, 16);"
# Name: (statements, what the emulator says).
FORBIDDEN = {
    "mvin_unconfigured": ("ISSUE(2, codes, AT(0));", "this mvin was not configured"),
    "mvout_unconfigured": ("ISSUE(3, results, AT(ACC));", "mvout was not configured"),
    "array_unconfigured": ("ISSUE(6, AT(0), AT(ACC));", "the array was not configured"),
    "17_rows": (f"{WS} ISSUE(2, codes, gemmini_block(64, 16, 17));", "1 to 16 rows of 1 to 64 bytes"),
    "no_rows": (f"{WS} ISSUE(2, codes, gemmini_block(64, 16, 0));", "1 to 16 rows of 1 to 64 bytes"),
    "65_columns": (f"{WS} ISSUE(2, codes, gemmini_block(64, 65, 1));", "1 to 16 rows of 1 to 64 bytes"),
    "17_sums": (f"{WS} ISSUE(14, sums, gemmini_block(ACC, 17, 1));", "1 to 16 rows of 1 to 64 bytes"),
    "scratchpad_end": (f"{WS} ISSUE(2, codes, AT(16384 - 15));", "rows lie outside"),
    "accumulator_end": (
        f"{WS} ISSUE(14, sums, AT(ACC | 1009));",
        "rows lie outside",
    ),
    "address_bits": (
        f"{WS} ISSUE(2, codes, AT(GEMMINI_ADD));",
        "address means nothing here",
    ),
    "overlap": (
        f"{WS} gemmini_config_ld(0, 64, 15, 1, 0, 1.0f); ISSUE(2, codes, gemmini_block(64, 32, 16));",
        "the blocks of an mvin overlap",
    ),
    "shared_sums": (
        f"{WS} gemmini_config_ld(0, 3, 16, 3, 1, 1.0f); ISSUE(2, codes, gemmini_block(ACC, 3, 16));",
        "pixels share rows of the scratchpad",
    ),
    "shared_too_many": (
        f"{WS} gemmini_config_ld(0, 3, 16, 6, 0, 1.0f); ISSUE(2, codes, gemmini_block(64, 3, 16));",
        "only as many as fit",
    ),
    "address_0_read": (f"{WS} ISSUE(2, 0, AT(64));", "the address 0 is read"),
    "address_0_written": (f"{WS} ISSUE(3, 0, AT(ACC));", "the address 0 is written"),
    "foreign_memory": (f"{WS} ISSUE(2, 0x7f00000000, AT(64));", "reads memory that is not the program's"),
    "past_the_end": (
        f"{WS} gemmini_config_ld(0, 1 << 30, 16, 1, 0, 1.0f); ISSUE(2, codes, AT(64));",
        "reads memory that is not the program's",
    ),
    "constants": (f"{WS} ISSUE(3, constants, AT(ACC));", "not the program's to write"),
    "read_after_write": (f"{STORED} gemmini_mvin(results, 64, 16, 16);", "what an earlier mvout stores"),
    "write_after_write": (
        f"{STORED} gemmini_mvout(results, ACC, 1, 1);",
        "an earlier mvout stores too",
    ),
    "write_after_read": (
        f"{WS} gemmini_mvin(results, 64, 16, 16); gemmini_mvout(results + 255, ACC, 1, 1);",
        "a byte that an earlier mvin may still read",
    ),
    "source_changed": (
        f"{WS} gemmini_mvin(codes, 64, 16, 16); codes[255]++; gemmini_fence();",
        "changed memory that Gemmini was told to load",
    ),
    "source_changed_between": (
        f"{WS} gemmini_mvin(codes, 64, 16, 16); codes[9]++; gemmini_mvin(codes, 64, 16, 16);",
        "changed memory that an earlier instruction may still read",
    ),
    "target_written": (
        f"{STORED} results[3] = 1; gemmini_fence();",
        "Gemmini was told to store",
    ),
    "no_preload": (f"{WS} ISSUE(4, AT(0), NOWHERE);", "a compute has no preload"),
    "two_preloads": (
        f"{WS} ISSUE(6, AT(16), AT(ACC)); ISSUE(6, AT(16), AT(ACC));",
        "preload has no compute",
    ),
    "config_between": (
        f"{WS} ISSUE(6, AT(16), AT(ACC)); gemmini_config_ex(1, 1);",
        "preload has no compute",
    ),
    "accumulator_preloaded": (
        f"{WS} ISSUE(6, AT(ACC), AT(ACC));",
        "address means nothing here",
    ),
    "accumulator_multiplied": (
        f"{WS} ISSUE(6, AT(16), AT(ACC)); ISSUE(4, AT(ACC), NOWHERE);",
        "a is not in the scratchpad",
    ),
    "no_weights": (f"{WS} ISSUE(6, NOWHERE, AT(ACC)); ISSUE(5, AT(0), NOWHERE);", "no weights in the array"),
    "nothing_preloaded": (
        f"{WS} ISSUE(6, NOWHERE, AT(ACC)); ISSUE(4, AT(0), NOWHERE);",
        "no weights were",
    ),
    "weights_unused": (f"{WS} ISSUE(6, AT(16), AT(ACC)); ISSUE(5, AT(0), NOWHERE);", "are not used"),
    "stale_weights": (
        f"{WS} ISSUE(6, AT(16), AT(ACC)); ISSUE(4, AT(0), NOWHERE); gemmini_config_ex(0, 1);"
        "gemmini_config_ex(1, 1); ISSUE(6, NOWHERE, AT(ACC)); ISSUE(5, AT(0), NOWHERE);",
        "no weights in the array",
    ),
    "unknown_codes": (
        f"{WS} ISSUE(6, AT(16), AT(ACC)); ISSUE(4, AT(32), NOWHERE);",
        "a part of the scratchpad that was never written",
    ),
    "unknown_sums": (
        f"{WS} ISSUE(6, AT(16), AT(ACC | GEMMINI_ADD | 16)); ISSUE(4, AT(0), NOWHERE);",
        "the accumulator that was never written",
    ),
    "unknown_stored": (
        f"{WS} ISSUE(3, results, AT(ACC | 16));",
        "the accumulator that was never written",
    ),
    "other_depth": (
        f"{WS} ISSUE(6, gemmini_block(16, 16, 15), AT(ACC)); ISSUE(4, AT(0), NOWHERE);",
        "the columns of a are not the rows of the weights",
    ),
    "more_results": (
        f"{WS} ISSUE(6, AT(16), AT(ACC)); ISSUE(4, gemmini_block(0, 16, 9), NOWHERE);",
        "more results are wanted than there are",
    ),
    "large_block": (f"{WS} ISSUE(6, gemmini_block(16, 17, 16), AT(ACC));", "larger than 16 x 16"),
    "wide_mvout": (f"{WS} ISSUE(3, results, gemmini_block(ACC, 17, 16));", "larger than 16 x 16"),
    "other_sums": (
        f"{OS} ISSUE(6, NOWHERE, NOWHERE); ISSUE(4, AT(0), AT(16));"
        "ISSUE(6, NOWHERE, AT(ACC)); ISSUE(5, gemmini_block(0, 16, 9), AT(16));",
        "the sums in the array have another size",
    ),
    "no_sums": (
        f"{OS} ISSUE(6, NOWHERE, AT(ACC)); ISSUE(5, AT(0), AT(16));",
        "no sums in the array",
    ),
    "sums_gone": (
        f"{OS} ISSUE(6, NOWHERE, AT(ACC)); ISSUE(4, AT(0), AT(16)); ISSUE(6, NOWHERE, AT(ACC));"
        "ISSUE(5, AT(0), AT(16));",
        "no sums in the array",
    ),
    "20_bits": (
        "for (int i = 0; i < 256; i++) results[i] = -128;"
        f"{OS} gemmini_mvin(results, 64, 16, 16); for (int k = 0; k < 2; k++) {{"
        "ISSUE(6, NOWHERE, k ? AT(ACC) : NOWHERE); gemmini_compute(!k, AT(64), AT(64)); }",
        "does not fit the 20 bits",
    ),
    "transposed": ("ISSUE(0, 1 << 16 | 1 << 8 | 0x3f800000ul << 32, 1ul << 48);", "transposes"),
    "reserved_bits": (
        "ISSUE(0, 1 << 16 | 1 << 12 | 0x3f800000ul << 32, 1ul << 48);",
        "reserved bit is set",
    ),
    "no_stride": ("ISSUE(0, 0x3f800000ul << 32, 1ul << 48);", "a stride of the array's operands is 0"),
    "not_a_scale": ("ISSUE(0, 1 | 1 << 8 | 0x7fc00000ul << 32, 0);", "a scale is not a positive number"),
    "fourth_mvin": (
        "ISSUE(0, 1 | 3 << 3 | 1 << 8 | 0x3f800000ul << 32, 0);",
        "three kinds of mvin",
    ),
    "other_activation": ("ISSUE(0, 2 | 2 << 2, 0x3f800000ul << 32);", "activations other than ReLU"),
    "norm": ("ISSUE(0, 3, 0);", "this configuration is not emulated"),
    "pool_without_stride": ("ISSUE(0, 2 | 2 << 6, 0x3f800000ul << 32);", "a pool has sizes but no stride"),
    "pool_of_nothing": ("ISSUE(0, 2 | 1 << 4 | 2 << 6, 0x3f800000ul << 32);", "a pool has no size"),
    "pool_outside": (
        "gemmini_pool p = {2, 2, 1, 1, 10, 10, 10, 16, 16}; gemmini_config_st(16, 0, 1.0f, p);",
        "has nothing of the picture in it",
    ),
    "pooled_sums": (
        f"{WS} gemmini_pool p = {{2, 2, 0, 0, 2, 2, 2, 4, 4}}; gemmini_config_st(16, 0, 1.0f, p);"
        "ISSUE(3, results, AT(ACC | GEMMINI_WHOLE));",
        "only scaled sums are pooled",
    ),
    "loop": ("ISSUE(8, 0, 0);", "this instruction is not emulated"),
    "unknown": ("ISSUE(99, 0, 0);", "this instruction is not emulated"),
    "result": (
        'asm volatile(".insn r CUSTOM_3, 7, 7, a0, x0, x0" : : : "a0");',
        "write none",
    ),
    "illegal": ('asm volatile(".4byte 0");', "an illegal instruction"),
}
# Name: (statements, what the program itself says): the header does not let such values out.
REFUSED = {
    "long_step": ("gemmini_config_ld(0, 1ll << 32, 16, 1, 0, 1.0f);", "does not fit its field"),
    "long_block_step": ("gemmini_config_ld(0, 16, 1 << 16, 1, 0, 1.0f);", "does not fit its field"),
    "negative": ("gemmini_config_ex(1, -1);", "does not fit its field"),
    "pool_size": (
        "gemmini_pool p = {4, 2, 0, 0, 2, 2, 2, 4, 4}; gemmini_config_st(16, 0, 1.0f, p);",
        "does not fit its field",
    ),
    "pooled_rows": (
        "gemmini_pool p = {2, 2, 0, 0, 256, 2, 2, 4, 4}; gemmini_config_st(16, 0, 1.0f, p);",
        "does not fit its field",
    ),
    "wide_mvin": ("gemmini_mvin(codes, 0, 65, 16);", "larger than it takes"),
    "tall_mvin": ("gemmini_mvin2(codes, 0, 16, 17);", "larger than it takes"),
    "wide_sums": ("gemmini_mvin3(sums, ACC, 17, 16);", "larger than it takes"),
    "wide_mvout": ("gemmini_mvout(results, ACC, 17, 16);", "larger than it takes"),
    "nothing": ("gemmini_mvin(NULL, 0, 16, 16);", "has no address"),
}
FINE = {
    "fence": f"{WS} for (int i = 0; i < 16; i++) sums[17 * i] = 5; gemmini_mvin3(sums, ACC, 16, 16);"
    "gemmini_mvout(results, ACC, 16, 16); int early = *(volatile int8_t *)results; gemmini_fence();"
    'if (early == 5 || results[0] != 5 || results[1]) topfive_fail("wrong");',
    "weight_stationary": f"{WS} gemmini_preload(16, 16, 16, ACC | GEMMINI_ADD, 16, 16);"
    "gemmini_compute(1, AT(0), NOWHERE); gemmini_preload(GEMMINI_NOWHERE, 16, 16, ACC | GEMMINI_ADD, 16, 16);"
    "gemmini_compute(0, AT(0), NOWHERE); gemmini_mvout(results, ACC, 16, 16); gemmini_fence();"
    'if (results[0] != 18 || results[1] || results[255] != 18) topfive_fail("wrong");',
    "output_stationary": f"{OS} gemmini_preload(GEMMINI_NOWHERE, 16, 16, GEMMINI_NOWHERE, 16, 16);"
    "gemmini_compute(1, AT(0), AT(16)); gemmini_preload(GEMMINI_NOWHERE, 16, 16, ACC | GEMMINI_ADD, 16, 16);"
    "gemmini_compute(0, AT(0), AT(16)); gemmini_mvout(results, ACC, 16, 16); gemmini_fence();"
    'if (results[0] != 18 || results[1] || results[255] != 18) topfive_fail("wrong");',
}
STATEMENTS = [*(code for code, _ in (*FORBIDDEN.values(), *REFUSED.values())), *FINE.values()]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isa")
    cases = "\n".join(f"    case {n}: {{ {code} break; }}" for n, code in enumerate(STATEMENTS))
    text = "#include <stdlib.h>\n" + BEGINNING + MAIN % cases
    (folder / "cases.c").write_text(text)
    sources = ["cases.c", str(RUNTIME / "gemmini_store.c"), str(RUNTIME / "hosted.c")]
    command = [toolchain.COMPILER, *HOSTED.split(), f"-I{RUNTIME}", f"-I{SCALAR_RUNTIME}", "-o", "cases"]
    subprocess.run([*command, *sources], cwd=folder, check=True)
    return folder / "cases"


@cache
def machine() -> list[str]:
    """What the stand-in starts; most cases skip its own start."""
    script = "import stand_in; print(stand_in.build())"
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=STAND_IN, capture_output=True, text=True, check=True
    )
    return [str(find_emulator()), made.stdout.strip()]


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*machine(), str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_the_isa_forbids_is_named(name: str, program: Path) -> None:
    code, message = FORBIDDEN[name]
    done = run(program, str(STATEMENTS.index(code)))
    assert message in done.stderr
    assert done.returncode == 70
    assert re.search(r"in .* at 0x[0-9a-f]+, rs1 0x[0-9a-f]+, rs2 0x[0-9a-f]+", done.stderr)
    assert "done" not in done.stdout


@pytest.mark.parametrize("name", REFUSED)
def test_the_header_truncates_nothing(name: str, program: Path) -> None:
    code, message = REFUSED[name]
    done = run(program, str(STATEMENTS.index(code)))
    assert message in done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize("name", FINE)
def test_what_the_isa_allows_is_computed(name: str, program: Path) -> None:
    done = run(program, str(STATEMENTS.index(FINE[name])))
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines()[-1] == "topfive: done 0 images"


def test_a_program_that_is_not_static_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 0; }")
    subprocess.run([toolchain.COMPILER, "-o", "main", "main.c"], cwd=tmp_path, check=True)
    done = run(tmp_path / "main")
    assert "not static" in done.stderr
    assert done.returncode == 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pk", "-p", "x"], "unrecognised option 'pk'"),
        (["--extension=hwacha", "pk", "-p", "x"], "couldn't find extension 'hwacha'"),
        (["--extension=gemmini", "bbl", "-p", "x"], "could not open bbl"),
        (["--extension=gemmini", "pk", "x"], "give -p"),
        (["--extension=gemmini", "pk", "-p"], "tell me what to run"),
        (["--extension=gemmini", "pk", "-p", "/nowhere"], "the program cannot be opened"),
    ],
    ids=["extension", "other_extension", "kernel", "paging", "program", "file"],
)
def test_the_command_line_is_taken_strictly(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [str(STAND_IN / "spike"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert message in done.stderr
    assert done.returncode


def test_the_stand_in_says_what_it_is() -> None:
    done = subprocess.run([str(STAND_IN / "spike"), "--help"], capture_output=True, text=True, check=True)
    assert "not spike" in done.stdout
