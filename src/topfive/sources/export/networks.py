"""Building the PyTorch network that a card names, with its published weights or with random ones."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from topfive.cards import Card
from topfive.errors import FetchError
from topfive.sources.export.exported import file_sha256

__all__ = ["build_network", "import_torchvision", "settle"]

EXTRA = "pip install 'topfive[export]'"
SETTLING_PICTURES = 8
HEAD_STD = 0.02
_kept_alive: list[Any] = []


def import_torchvision() -> Any:
    """torchvision, also beside a CPU-only torch whose torchvision was built for CUDA; raises FetchError.

    Such a torchvision cannot load its operators, yet describes two of them when it is imported: they are
    declared first, without a body, which is all that classification networks need.
    """
    torch = _imported("torch")
    try:
        return _imported("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise FetchError(f"torchvision cannot be imported: {error}") from error
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)
    return _imported("torchvision")


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FetchError(f"{name} is not installed: {EXTRA}", details=str(error)) from error


def build_network(card: Card, *, seed: int | None) -> Any:
    """The network of a card in evaluation mode, as a module from [N, 3, H, W] to [N, classes].

    seed: None loads the published weights (this uses the network); a number gives random weights, see settle.
    Raises FetchError.
    """
    torch = _imported("torch")
    if seed is not None:
        torch.manual_seed(seed)
    make = {"torchvision": _torchvision, "huggingface": _huggingface}[card.source.kind]
    try:
        network = make(card, pretrained=seed is None)
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        raise FetchError(
            f"{card.source.kind} cannot give {card.source.model!r} ({card.path}): check network and card",
            details=str(error),
        ) from error
    network.eval()
    if seed is not None:
        settle(network, card.input.size, seed)
    return network


def _torchvision(card: Card, *, pretrained: bool) -> Any:
    models = import_torchvision().models
    if card.source.model not in models.list_models():
        raise FetchError(f"{card.path}: torchvision has no model {card.source.model!r}")
    # Inception and GoogLeNet draw their weights from a slow distribution unless told not to.
    slow = {"init_weights": False} if card.source.model in ("inception_v3", "googlenet") else {}
    if pretrained:
        weights = models.get_model_weights(card.source.model)[card.source.revision or "DEFAULT"]
        refuse_damaged(weights.url)
        with only_tensors():
            return models.get_model(card.source.model, weights=weights)
    return models.get_model(card.source.model, weights=None, **slow)


def refuse_damaged(url: str) -> None:
    """FetchError if torch.hub has kept another file than `url` names: it compares no hash of what it has."""
    name = url.rpartition("/")[2]
    path = Path(_imported("torch").hub.get_dir()) / "checkpoints" / name
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    if digits and path.is_file() and not file_sha256(path).startswith(digits[1]):
        raise FetchError(f"{path} is damaged, or another file: remove it and fetch again")


@contextlib.contextmanager
def only_tensors() -> Iterator[None]:
    """Within it torch.load reads tensors alone, whoever calls it: torch.hub would run what a pickle says."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _huggingface(card: Card, *, pretrained: bool) -> Any:
    import_torchvision()  # transformers imports it when it is installed, and fails where this does not
    torch, transformers = _imported("torch"), _imported("transformers")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # not every try: the error says it
    revision = {"revision": card.source.revision} if card.source.revision else {}
    family = transformers.AutoModelForImageClassification
    if pretrained:
        with only_tensors():
            inner = family.from_pretrained(card.source.model, **revision)
    else:
        inner = family.from_config(_configuration(transformers, card))

    class Logits(torch.nn.Module):  # type: ignore[name-defined,misc]
        """The logits alone: an ONNX file of a classifier has one output."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Any) -> Any:
            return self.inner(pixel_values=pixels).logits

    return Logits()


def _configuration(transformers: Any, card: Card) -> Any:
    """The architecture without its weights, which would need the network."""
    known = {
        "google/vit-base-patch16-224": lambda: transformers.ViTConfig(num_labels=card.output.classes),
        "microsoft/resnet-152": lambda: transformers.ResNetConfig(
            depths=[3, 8, 36, 3], num_labels=card.output.classes
        ),
    }
    if card.source.model not in known:
        raise FetchError(f"{card.path}: random weights are known only for {', '.join(sorted(known))}")
    return known[card.source.model]()


def settle(network: Any, size: tuple[int, int], seed: int) -> None:
    """Make the outputs of random weights depend on the input.

    Untrained networks in evaluation mode answer (nearly) the same for every input: batch normalisations have
    statistics of no data, and heads may start at zero. So linear layers whose weights are all zero get normal
    ones of standard deviation HEAD_STD, and one pass over random pictures in training mode without dropout
    sets the statistics, on one thread: sums over several depend on their number. size: height and width in
    pixels.
    """
    torch = _imported("torch")
    generator = torch.Generator().manual_seed(seed)
    dropouts = []
    for module in network.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=HEAD_STD, generator=generator)
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
        if isinstance(module, torch.nn.Dropout):
            dropouts.append((module, module.p))
            module.p = 0.0
    pictures = torch.randn(SETTLING_PICTURES, 3, *size, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network.train()
    try:
        with torch.no_grad():
            network(pictures)
    finally:
        torch.set_num_threads(threads)
    network.eval()
    for module, rate in dropouts:
        module.p = rate
