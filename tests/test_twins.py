"""The numeric twins as targets: bundled models against numpy, options, refusals, tolerances, processors."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import topfive
from topfive import targets
from topfive.cache import Cache
from topfive.cards import find_card, load_cards
from topfive.errors import CardError, CompileError, OptionError
from topfive.golden import Observed, Shown
from topfive.golden.updating import make_golden
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.pipeline import MODEL, Pipeline
from topfive.suite.selection import Choice, Selection
from topfive.suite.settings import read_settings
from topfive.targets.base import Artifact

import twin_oracle

TWINS = {
    "aic100_sim": ("force_float16",),
    "mlu370_sim": ("force_float32", "force_float16", "qint8_mixed_float16"),
    "tensorrt_sim": ("force_float32", "force_float16", "int8"),
}
INTEGER = {"mlu370_sim": "qint8_mixed_float16", "tensorrt_sim": "int8"}
QEMU = shutil.which("qemu-x86_64")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pictures(model: str, count: int) -> np.ndarray:
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:count]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_axis"])
@pytest.mark.parametrize("target", INTEGER)
@pytest.mark.parametrize("model", ["pocket_mobilenet", "pocket_resnet"])
def test_integer_modes_of_bundled_models_are_numpy(
    model: str, target: str, granularity: str, cache: Path
) -> None:
    """Every code and every logit, from the picture to the output."""
    quant = INTEGER[target]
    options = {"weight_quant_granularity": granularity} if target == "mlu370_sim" else {}
    card = find_card(model, load_cards())
    batch = pictures(model, 2)
    quantised = Pipeline(card, target, quant, Cache(cache), options=options).quantized().file(MODEL)
    wanted = twin_oracle.run(onnx.load(quantised), batch, half=target == "mlu370_sim")
    artifact = topfive.build(model, target=target, quant=quant, cache=cache, options=options)
    with topfive.open(artifact, threads=2) as runner:
        tensors, logits, exact = runner.tensors(batch), runner.run(batch), runner.exact_outputs(batch)
    codes = artifact.meta["int8_tensors"]
    assert len(codes) >= 10
    for name in codes:
        np.testing.assert_array_equal(tensors[name], wanted[name], err_msg=name, strict=True)
    np.testing.assert_array_equal(logits, wanted["logits"])
    # Nothing inexact comes before the last convolution or matrix product.
    assert list(exact) == ["Flatten.out_quantized"]


@pytest.mark.parametrize("target", TWINS)
def test_modes_options_and_what_is_simulated(target: str) -> None:
    found = targets.get(target)
    assert found.quants == TWINS[target]
    assert "CPU" in found.simulated
    assert found.functional
    assert set(found.options) == ({"weight_quant_granularity"} if target == "mlu370_sim" else set())


@pytest.mark.parametrize(
    ("target", "quant"),
    [
        ("aic100_sim", "force_float32"),
        ("aic100_sim", "int8"),
        ("tensorrt_sim", "qint8_mixed_float16"),
        ("mlu370_sim", "int8"),
        ("cpu", "qint8_mixed_float16"),
        ("gemmini_sim", "qint8_mixed_float16"),
    ],
)
def test_other_modes_are_refused(target: str, quant: str, cache: Path) -> None:
    with pytest.raises(CompileError):
        topfive.build("pocket_fire", target=target, quant=quant, cache=cache)


def test_float16_is_the_same_on_every_twin(cache: Path) -> None:
    batch = pictures("pocket_vit", 2)
    results = []
    for target in TWINS:
        artifact = topfive.build("pocket_vit", target=target, quant="force_float16", cache=cache)
        assert artifact.meta["float16_output"]
        assert artifact.meta["clipped_weights"] == {}
        assert not artifact.exact
        with topfive.open(artifact, threads=1) as runner:
            results.append(runner.run(batch))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[0], results[0].astype(np.float16).astype(np.float32))


def test_float32_is_the_cpu_s(cache: Path) -> None:
    batch = pictures("pocket_fire", 2)
    results = []
    for target in ("cpu", "mlu370_sim", "tensorrt_sim"):
        artifact = topfive.build("pocket_fire", target=target, quant="force_float32", cache=cache)
        with topfive.open(artifact, threads=1) as runner:
            results.append(runner.run(batch))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_granularity_makes_other_artifacts(cache: Path) -> None:
    def build(**options: str) -> Artifact:
        build_options = {"target": "mlu370_sim", "quant": "qint8_mixed_float16", "cache": cache}
        return topfive.build("pocket_fire", **build_options, options=options)

    plain = build()
    assert build(weight_quant_granularity="per_tensor") == plain
    assert build(weight_quant_granularity="per_axis").key != plain.key
    with pytest.raises(OptionError, match=r"per_tensor, per_axis"):
        build(weight_quant_granularity="per_channel")


@pytest.mark.realdata
def test_depthwise_networks_need_a_scale_a_channel(cache: Path) -> None:
    """MobileNet v2: per tensor it is lost, per axis its top-1 is float32's."""
    card = find_card("mobilenet_v2_tf2ptq", load_cards())
    found = list_images(card.pictures_folder(), map_file=card.pictures_map())[:6]
    batch = preprocess_batch([i.path for i in found], load_profile(card.input.profile), card.input.size)
    best = {}
    for name, target, quant, options in (
        ("float", "cpu", "force_float32", {}),
        ("per_tensor", "mlu370_sim", "qint8_mixed_float16", {}),
        ("per_axis", "mlu370_sim", "qint8_mixed_float16", {"weight_quant_granularity": "per_axis"}),
        ("tensorrt", "tensorrt_sim", "int8", {}),
    ):
        artifact = topfive.build(card, target=target, quant=quant, cache=cache, options=options)
        with topfive.open(artifact, threads=2) as runner:
            best[name] = runner.run(batch).reshape(len(batch), -1).argmax(axis=1).tolist()
    assert best["per_axis"] == best["tensorrt"] == best["float"]
    assert best["per_tensor"] != best["float"]


@pytest.mark.parametrize(
    ("largest", "relative"), [(0.5, 0.01), (7.0, 0.0117), (20.0, 0.0469), (40.0, 0.0938)]
)
def test_a_float16_golden_allows_three_steps_of_its_largest_logit(largest: float, relative: float) -> None:
    card = find_card("pocket_fire", load_cards())
    scores = np.linspace(0, 1, 100, dtype=np.float32)
    seen = [Observed(Shown("a.png", "0" * 64, None), scores, (), largest)]
    for meta, wanted in (({"float16_output": True}, relative), ({}, 0.01)):
        artifact = Artifact(Path(), "key", "pocket_fire", "t", "q", meta)
        assert make_golden(card, artifact, seen, "", {}).tolerance.relative == pytest.approx(wanted)


def test_twins_are_timed_at_one_batch_size_for_a_moment(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text("[throughput]\nbatches = [1, 4]\n[functional]\nmax_seconds = 0.05\n")
    for batches, wanted in (
        (None, {("cpu", 1), ("cpu", 4), ("tensorrt_sim", 1)}),
        ((8,), {("cpu", 8), ("tensorrt_sim", 8)}),
    ):
        choice = Choice(("pocket_fire",), ("cpu", "tensorrt_sim"), ("int8",), batches)
        cases = Selection(load_cards(), choice, tmp_path).cases("throughput", batched=True)
        assert {(case.target, case.batch) for case in cases} == wanted
    assert read_settings(tmp_path / "suite.toml").functional.max_seconds == 0.05
    (tmp_path / "suite.toml").write_text("[functional]\nleast_rounds = 0\n")
    with pytest.raises(CardError, match="functional"):
        read_settings(tmp_path / "suite.toml")


SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import topfive
from topfive.sessions import native_kernels_are_exact

batch = np.load(sys.argv[2])
found = {"exact": native_kernels_are_exact(), "values": {}}
for model, target, quant in (
    ("pocket_fire", "tensorrt_sim", "int8"),
    ("pocket_mobilenet", "mlu370_sim", "qint8_mixed_float16"),
    ("pocket_vit", "mlu370_sim", "qint8_mixed_float16"),
    ("pocket_vit", "aic100_sim", "force_float16"),
):
    artifact = topfive.build(model, target=target, quant=quant, cache=Path(sys.argv[1]))
    with topfive.open(artifact, threads=1) as runner:
        codes = runner.exact_outputs(batch) if artifact.exact else {}
        found["values"][f"{model} {quant}"] = {
            "logits": runner.run(batch).tolist(),
            **{name: value.ravel().tolist() for name, value in codes.items()},
        }
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulated processor is an x86")
def test_the_same_codes_on_a_processor_without_vnni(tmp_path: Path) -> None:
    """Emulated, as in test_other_processors.py; float16 differs by its stated tolerance at most."""
    np.save(tmp_path / "batch.npy", pictures("pocket_vit", 2))
    found = []
    for name, command in (("here", []), ("there", [str(QEMU), "-cpu", "Haswell"])):
        arguments = [
            *command,
            sys.executable,
            "-c",
            SCRIPT,
            str(tmp_path / name),
            str(tmp_path / "batch.npy"),
        ]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    here, there = found
    assert not there["exact"], "without the hazard this shows nothing"
    for case, values in here["values"].items():
        for name, value in values.items():
            other = there["values"][case][name]
            if name == "logits" and "vit" in case:
                step = float(np.spacing(np.float16(np.abs(value).max())))
                assert np.abs(np.subtract(value, other)).max() <= 3 * step
            else:
                assert other == value, f"{case} {name}"
