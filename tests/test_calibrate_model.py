"""`topfive calibrate` with the imagenet runner's options: a dataset in, a quantised ONNX file out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

import topfive
from topfive.cards import fixtures_root, load_cards
from topfive.cli import app
from topfive.errors import TopfiveError
from topfive.graph import Graph
from topfive.images import crop_uint8, list_images, load_profile, preprocess_batch
from topfive.quantize.ranges import read_ranges
from topfive.targets.gemmini.reference import mismatches
from topfive.targets.gemmini.target import INT8_FILE

CARD = load_cards()["pocket_resnet"]
PROFILE = load_profile("pocket64")
MODELS = fixtures_root() / "models"
SAMPLES = 16


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def calibration_pictures(count: int = SAMPLES) -> list[Path]:
    return sorted(image.path for image in list_images(CARD.calibration_folder()))[:count]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibration pictures as the ONNX model zoo keeps inputs: R, G, B levels, NCHW, float32."""
    folder = tmp_path_factory.mktemp("zoo")
    for number, path in enumerate(calibration_pictures()):
        planes = crop_uint8(path, PROFILE, (64, 64)).transpose(2, 0, 1)[None].astype(np.float32)
        place = folder / f"test_data_set_{number}"
        place.mkdir()
        (place / "input_0.pb").write_bytes(numpy_helper.from_array(planes, "input").SerializeToString())
    return folder


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    paths = [image.path for image in list_images(CARD.pictures_folder())[:40]]
    return preprocess_batch(paths, PROFILE, (64, 64))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)], catch_exceptions=True)


def calibrated(cache: Path, *arguments: object) -> str:
    found = invoke(*arguments, "--artifact-cache", cache)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def refused(cache: Path, *arguments: object) -> str:
    found = invoke(*arguments, "--artifact-cache", cache)
    assert isinstance(found.exception, TopfiveError), found.output
    return str(found.exception)


def integer_parts(file: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in Graph.load(file).constants.items()}


def test_the_seeds_own_command_line(
    tmp_path: Path, cache: Path, tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its README's, with our file names; a profile of another network serves as well here."""
    monkeypatch.chdir(tmp_path)
    model = MODELS / "pocket_resnet.onnx"
    out = calibrated(
        cache,
        *("--model_path", model),
        *("--dataset_path", tensors),
        *("--output_model_path", tmp_path / "model_opt_quantized.onnx"),
        "--static=True",
        "--data_preprocess=mxnet",
        "--mode=int8",
        "--dataset_size=4",
    )
    assert "ranges over 4 samples\n" in out
    assert "Conv: 13 -> 0\n" in out
    assert "QLinearConv: 0 -> 13\n" in out
    made = onnx.load(tmp_path / "model_opt_quantized.onnx")
    onnx.checker.check_model(made, full_check=True)
    said = {p.key: p.value for p in made.metadata_props}
    assert said["topfive.mode"] == "int8"
    assert said["topfive.static"] == "true"
    assert said["topfive.profile"] == "mxnet"
    assert said["topfive.pictures"] == "4"
    calibrated(cache, "--model_path", model, "--dataset_path", tensors, "--data_preprocess=None")
    assert (tmp_path / "calibrated_quantized_model.onnx").is_file()


@pytest.mark.parametrize(
    ("given", "static"),
    [
        (["--static=True"], True),
        (["--static", "yes"], True),
        (["--static"], True),
        ([], True),
        (["--static=0"], False),
        (["--static", "False"], False),
        (["--dynamic"], False),
    ],
    ids=lambda value: "_".join(value) or "default" if isinstance(value, list) else "",
)
def test_static_is_said_as_the_runner_says_it_or_as_a_flag(
    tmp_path: Path, cache: Path, tensors: Path, given: list[str], static: bool
) -> None:
    options = ("--dataset", tensors, "--dataset-size", 1, "--output-model", tmp_path / "q.onnx")
    calibrated(cache, "-m", MODELS / "pocket_fire.onnx", *given, *options, "--data-preprocess", "pocket64")
    assert ("ReduceMax" in {n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node}) is not static


def test_pictures_and_their_tensors_give_the_same_model(tmp_path: Path, cache: Path, tensors: Path) -> None:
    common = ("-m", MODELS / "pocket_resnet.onnx", "--data-preprocess", "pocket64", "--output-model")
    calibrated(cache, *common, tmp_path / "a.onnx", "--dataset", tensors)
    folder = CARD.calibration_folder()
    calibrated(cache, *common, tmp_path / "b.onnx", "--dataset", folder, "--dataset-size", SAMPLES)
    assert integer_parts(tmp_path / "a.onnx") == integer_parts(tmp_path / "b.onnx")


@pytest.mark.parametrize("model", ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"])
def test_the_int8_file_runs_as_it_is_with_the_bits_of_the_built_model(
    model: str, tmp_path: Path, cache: Path, pictures: np.ndarray
) -> None:
    """The card's own calibration: `--quant int8` and the file under `--quant as_is` are one graph."""
    calibrated(cache, model, "--output-model", tmp_path / "q.onnx")
    built = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    as_is = topfive.build(tmp_path / "q.onnx", target="gemmini_sim", quant="as_is", cache=cache)
    assert (built.path / INT8_FILE).read_bytes() == (as_is.path / INT8_FILE).read_bytes()
    with topfive.open(built) as one, topfive.open(as_is) as other:
        np.testing.assert_array_equal(one.run(pictures[:8]), other.run(pictures[:8]))
        left, right = one.exact_outputs(pictures[:8]), other.exact_outputs(pictures[:8])
        observed = other.tensors(pictures[:8])
    assert left.keys() == right.keys()
    for name, codes in left.items():
        np.testing.assert_array_equal(codes, right[name], strict=True)
    assert next(mismatches(onnx.load(as_is.path / INT8_FILE), observed, pictures[:8]), None) is None


@pytest.mark.parametrize("mode", ["int8", "uint8"])
@pytest.mark.parametrize("static", ["--static", "--dynamic"])
def test_every_mode_runs_on_the_cpu_and_agrees_with_float32(
    mode: str, static: str, tmp_path: Path, cache: Path, pictures: np.ndarray
) -> None:
    calibrated(
        cache, "pocket_resnet", static, "--mode", mode, "--output-model", tmp_path / f"{mode}{static}.onnx"
    )
    artifact = topfive.build(tmp_path / f"{mode}{static}.onnx", target="cpu", quant="as_is", cache=cache)
    with topfive.open(topfive.build(CARD, target="cpu", quant="force_float32", cache=cache)) as runner:
        exact = runner.run(pictures)
    with topfive.open(artifact) as runner:
        found = runner.run(pictures)
    assert (found.argmax(1) == exact.argmax(1)).mean() >= 0.95
    assert np.square(exact).sum() / np.square(exact - found).sum() > 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--mode", "uint8"], "codes are uint8 with zero point"),
        (["--dynamic"], "computed at run time, not constant"),
    ],
    ids=["uint8", "dynamic"],
)
def test_gemmini_refuses_what_it_cannot_do_node_by_node(
    options: list[str], reason: str, tmp_path: Path, cache: Path
) -> None:
    calibrated(cache, "pocket_fire", *options, "--output-model", tmp_path / "q.onnx")
    with pytest.raises(TopfiveError) as caught:
        topfive.build(tmp_path / "q.onnx", target="gemmini_sim", quant="as_is", cache=cache)
    assert "are not Gemmini's arithmetic" in str(caught.value)
    assert reason in caught.value.details
    assert "QLinearConv '" in caught.value.details


def fixed_batch(path: Path) -> Path:
    """As the model zoo's networks are: a batch of 1 and no other."""
    model = onnx.load(MODELS / "pocket_resnet.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    return path


def test_a_model_of_a_fixed_batch_is_calibrated(tmp_path: Path, cache: Path, tensors: Path) -> None:
    model = fixed_batch(tmp_path / "one.onnx")
    options = ("--dataset", tensors, "--data-preprocess", "pocket64", "--output-model")
    calibrated(cache, "-m", model, *options, tmp_path / "q1.onnx")
    calibrated(cache, "-m", MODELS / "pocket_resnet.onnx", *options, tmp_path / "qn.onnx")
    one, free = integer_parts(tmp_path / "q1.onnx"), integer_parts(tmp_path / "qn.onnx")
    assert one.keys() == free.keys()
    assert topfive.build(model, target="gemmini_sim", quant="int8", cache=cache).exact


def test_table_and_model_are_written_together(tmp_path: Path, cache: Path, tensors: Path) -> None:
    options = ("--dataset", tensors, "-o", tmp_path / "t.json", "--output-model", tmp_path / "q.onnx")
    found = json.loads(calibrated(cache, "pocket_resnet", *options, "--json"))
    table = read_ranges(tmp_path / "t.json")
    assert found["pictures"] == table.provenance["pictures"] == SAMPLES
    assert found["tensors"] == len(table.ranges)
    assert (found["mode"], found["static"], found["written"]) == ("int8", True, True)
    assert found["nodes"]["QLinearConv"] == 13
    assert Path(found["quantised"]).is_file()
    again = json.loads(calibrated(cache, "pocket_resnet", *options, "--json"))
    assert again["written"] is False


def test_tensors_that_are_no_levels_are_warned_of(tmp_path: Path, cache: Path) -> None:
    ready = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    (tmp_path / "input_0.pb").write_bytes(numpy_helper.from_array(ready, "x").SerializeToString())
    found = invoke("pocket_fire", "--dataset", tmp_path, "-o", tmp_path / "t.json", "--artifact-cache", cache)
    assert found.exit_code == 0
    assert "warning: " in found.stderr
    assert "hardly levels of 0 to 255" in found.stderr


def test_bad_requests_say_what_is_wrong(tmp_path: Path, cache: Path, tensors: Path) -> None:
    model = MODELS / "pocket_fire.onnx"
    assert "wants one model" in refused(cache)
    assert "wants one model" in refused(cache, "pocket_fire", "--model", model)
    assert "unknown calibration mode 'int4'" in refused(cache, "pocket_fire", "--mode", "int4")
    assert "--dataset-size goes with --dataset" in refused(cache, "pocket_fire", "--dataset-size", 4)
    assert "--data-preprocess goes with" in refused(cache, "pocket_fire", "--data-preprocess", "mxnet")
    assert "unknown profile 'mxnt': did you mean mxnet" in refused(
        cache, "-m", model, "--dataset", tensors, "--data-preprocess", "mxnt"
    )
    assert "no such folder" in refused(cache, "-m", model, "--dataset", tmp_path / "nowhere")
    assert "gives float32 tensors [64, 64, 3]" in refused(
        cache, "-m", model, "--dataset", tensors, "--data-preprocess", "magicmind_nhwc"
    )
    (tmp_path / "input_0.pb").write_bytes(b"\x00\x01")
    text = refused(cache, "-m", model, "--dataset", tmp_path, "--output-model", tmp_path / "q.onnx")
    assert f"{tmp_path / 'input_0.pb'}: is no ONNX tensor" in text
    assert not (tmp_path / "q.onnx").exists()


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path, cache: Path) -> None:
    calibrated(cache, "pocket_fire", "--output-model", tmp_path / "q.onnx")
    assert "already quantised" in refused(
        cache, "-m", tmp_path / "q.onnx", "--output-model", tmp_path / "qq.onnx"
    )


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").touch()
    text = refused(cache, "pocket_fire", "--output-model", tmp_path / "file" / "q.onnx")
    assert "q.onnx cannot be written" in text
