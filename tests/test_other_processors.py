"""The same bits on a processor without VNNI, emulated: an x86 of 2013 (AVX2 only) under qemu-user.

Its default uint8 x int8 kernels saturate, which is the hazard that open_exact is there for.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QEMU = shutil.which("qemu-x86_64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulated processor is an x86"),
]

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import topfive
from topfive.cards import find_card, load_cards
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.sessions import native_kernels_are_exact, saturating_kernels

found = {"saturating": saturating_kernels(), "hashes": {}}
for model in ("pocket_resnet", "pocket_mobilenet", "pocket_fire", "pocket_vit"):
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:4]]
    batch = preprocess_batch(paths, load_profile(card.input.profile), card.input.size)
    artifact = topfive.build(model, target="gemmini_sim", quant="int8", cache=Path(sys.argv[1]))
    with topfive.open(artifact, threads=1) as runner:
        for name, codes in sorted(runner.exact_outputs(batch).items()):
            found["hashes"][f"{model} {name}"] = hashlib.sha256(codes.tobytes()).hexdigest()
print(json.dumps(found))
"""


def measure(command: list[str], cache: Path) -> dict:
    command = [*command, sys.executable, "-c", SCRIPT, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_int8_results_are_the_same_bits_without_vnni(tmp_path: Path) -> None:
    here = measure([], tmp_path / "here")
    # Its own cache: quantising, folding and lowering must give the same bits there too.
    there = measure([str(QEMU), "-cpu", "Haswell"], tmp_path / "there")
    assert "general" in there["saturating"], "without the hazard this shows nothing"
    assert there["hashes"] == here["hashes"]
    assert len(here["hashes"]) >= 4
