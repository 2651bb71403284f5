"""Networks exported from PyTorch: where they are kept, what is refused, and the export itself (slow)."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import pytest

from topfive import sources
from topfive.cards import Card, load_cards
from topfive.errors import FetchError
from topfive.images import load_profile
from topfive.sources.export import exported_path, unfetched_reason

WITHOUT_TORCH = importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None
needs_torch = pytest.mark.skipif(WITHOUT_TORCH, reason="torch and torchvision are not installed")


def card(name: str = "resnet18") -> Card:
    return load_cards()[name]


def test_an_unfetched_network_says_what_to_do(tmp_path: Path) -> None:
    assert "topfive fetch resnet18" in unfetched_reason(card(), tmp_path)
    with pytest.raises(FetchError, match="topfive fetch resnet18"):
        sources.resolve(card(), tmp_path)


def kept(folder: Path, content: bytes = b"model") -> Path:
    path = exported_path(card(), folder)
    path.write_bytes(content)
    digest = "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"  # of b"model"
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    return path


def test_a_fetched_network_is_used_after_its_hash_is_checked(tmp_path: Path) -> None:
    path = kept(tmp_path)
    assert sources.resolve(card(), tmp_path) == path
    here = f"folder:{tmp_path}"
    complete = replace(
        card(),
        output=replace(card().output, labels=""),
        pictures=replace(card().pictures, set=here, map=""),
        calibration=replace(card().calibration, set=here),
    )
    assert sources.unavailable_reason(complete, tmp_path) == ""
    assert "topfive fetch resnet18" in sources.unavailable_reason(complete, tmp_path / "elsewhere")
    path.write_bytes(b"other")
    with pytest.raises(FetchError, match="was changed after it was exported"):
        sources.resolve(card(), tmp_path)


@pytest.mark.parametrize("note", ["", "[]", '{"sha": 1}', None], ids=["empty", "list", "no hash", "absent"])
def test_a_network_without_its_note_is_refused(note: str | None, tmp_path: Path) -> None:
    path = kept(tmp_path).with_suffix(".json")
    path.unlink()
    if note is not None:
        path.write_text(note)
    with pytest.raises(FetchError, match="remove both and fetch again"):
        sources.resolve(card(), tmp_path)


def test_random_weights_are_never_the_cards_own_file(tmp_path: Path) -> None:
    places = {exported_path(card(), tmp_path, opset=o, seed=s) for o in (None, 13) for s in (None, 0, 1)}
    assert len(places) == 6
    assert exported_path(card(), tmp_path) == exported_path(card(), tmp_path, opset=17)


def test_a_file_that_nobody_vouched_for_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="nobody has vouched"):
        sources.resolve(card("mlperf_resnet50_opset11"), tmp_path, allow_download=True)


@pytest.mark.skipif(not WITHOUT_TORCH, reason="torch is installed")
def test_the_extra_is_named_when_torch_is_absent(tmp_path: Path) -> None:
    from topfive.sources.export import export

    with pytest.raises(FetchError, match=r"is not installed: pip install 'topfive\[export\]'"):
        export(card(), tmp_path, seed=0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and cheaper: the others would wait, spinning."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


FAMILIES = (
    "resnet18",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "mnasnet0_5",
)


@needs_torch
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_exports_with_random_weights(name: str, tmp_path: Path) -> None:
    import numpy as np
    import onnx
    import onnxruntime

    from topfive.sources.export import export

    out = exported_path(card(name), tmp_path, opset=13, seed=3)
    left = out.with_name(f".{out.name}.0123456789ab.part")
    left.write_bytes(b"of a killed export")
    found = export(card(name), tmp_path, seed=3, opset=13)
    assert found.path == out
    assert not left.exists()
    assert found.difference < 1e-4
    assert found.parameters == pytest.approx(1e6 * (card(name).published.parameters_millions or 0), abs=500)
    model = onnx.load(found.path)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 13
    session = onnxruntime.InferenceSession(str(found.path), providers=["CPUExecutionProvider"])
    pictures = np.random.default_rng(0).normal(size=(5, 3, *card(name).input.size)).astype(np.float32)
    logits = session.run(None, {"input": pictures})[0]
    assert logits.shape == (5, 1000)
    assert np.abs(logits - logits[0]).max() > 1e-3 * np.abs(logits).max()


@needs_torch
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_same_seed_gives_the_same_weights_on_any_threads_and_another_seed_others() -> None:
    import numpy as np
    import torch

    from topfive.sources.export.networks import build_network

    weights = []
    for seed, threads in ((1, 1), (1, 3), (2, 1)):
        torch.set_num_threads(threads)
        state = build_network(card("mobilenet_v3_small"), seed=seed).state_dict()
        assert torch.get_num_threads() == threads
        weights.append(np.concatenate([tensor.numpy().ravel() for tensor in state.values()]))
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@needs_torch
@pytest.mark.slow
def test_the_cards_say_what_torchvisions_own_metadata_say() -> None:
    from topfive.sources.export.networks import import_torchvision

    models = import_torchvision().models
    cards = [found for found in load_cards().values() if found.source.kind == "torchvision"]
    assert len(cards) == 51
    for found in cards:
        weights = models.get_model_weights(found.source.model)
        entry = weights[found.source.revision]
        assert entry == weights.DEFAULT, found.name
        about, preset = entry.meta, entry.transforms()
        accuracy = about["_metrics"]["ImageNet-1K"]
        published = found.published
        assert published.top1 is not None
        assert published.top5 is not None
        assert (100 * published.top1, 100 * published.top5) == pytest.approx(
            (accuracy["acc@1"], accuracy["acc@5"]), abs=1e-6
        )
        assert published.gmacs == about["_ops"], found.name
        assert published.parameters_millions == pytest.approx(about["num_params"] / 1e6, abs=5.1e-4)
        assert len(about["categories"]) == found.output.classes
        resize, crop = load_profile(found.input.profile).picture
        _, mean, deviation = load_profile(found.input.profile).tensor.steps
        side = found.input.size[0]
        assert ([crop.pixels(side)], [resize.pixels(side)]) == (preset.crop_size, preset.resize_size)
        assert resize.filter == f"pillow_{preset.interpolation.value}", found.name
        assert set(preset.mean) == set(mean.subtract or ()), found.name
        assert set(preset.std) == set(deviation.divide or ()), found.name


@needs_torch
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_an_export_that_fails_prints_nothing_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from topfive.sources.export import export

    with pytest.raises(FetchError, match=r"torch\.onnx\.export failed at opset 25"):
        export(card("squeezenet1_1"), tmp_path, seed=0, opset=25)
    assert capfd.readouterr().out == ""
    assert [left.suffix for left in tmp_path.iterdir()] == [".lock"]


@needs_torch
def test_weights_that_were_damaged_after_their_download_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from topfive.sources.export import export

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    kept_weights = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    kept_weights.parent.mkdir(parents=True)
    kept_weights.write_bytes(b"cut short")
    with pytest.raises(FetchError, match=r"resnet18-f37072fd\.pth is damaged, or another file: remove it"):
        export(card(), tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


class Opens:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@needs_torch
def test_weights_are_read_without_running_what_they_say(tmp_path: Path) -> None:
    import torch

    from topfive.sources.export.networks import only_tensors

    torch.save({"weight": torch.ones(2), "more": Opens(tmp_path / "made")}, tmp_path / "bad.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "good.pth")
    with only_tensors():
        load = torch.hub.load_state_dict_from_url
        assert load((tmp_path / "good.pth").as_uri(), str(tmp_path))["weight"].tolist() == [1, 1]
        with pytest.raises(UnpicklingError, match="Weights only load failed"):
            load((tmp_path / "bad.pth").as_uri(), str(tmp_path))
    assert not (tmp_path / "made").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@needs_torch
def test_weights_beyond_float16_are_counted_and_clipped_on_request() -> None:
    import torch

    from topfive.sources.export.onnx_export import clip_to_float16

    network = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, -70000.0, 65505.0]]))
    assert clip_to_float16(network, apply=False) == 2
    assert network.weight.tolist() == [[1.0, -70000.0, 65505.0]]
    assert clip_to_float16(network, apply=True) == 2
    assert network.weight.tolist() == [[1.0, -65504.0, 65504.0]]
