"""The zoo's cards: field by field against a table, two names of one network, tags and what they select."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from topfive.cards import Card, load_cards
from topfive.images import load_profile

from topfive_command import run_topfive

TABLE = Path(__file__).parent / "data" / "zoo.txt"
LINES = [line.split() for line in TABLE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
FACTS = {line[0]: dict(zip(LINES[0], line, strict=True)) for line in LINES[1:]}
CONSTANTS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "zoo.md"


def described(card: Card) -> dict[str, str]:
    """What a card and its profile say, in the words of the table."""
    profile = load_profile(card.input.profile)
    resize, *crop = profile.picture
    height, width = card.input.size
    assert (height, profile.tensor.planes, profile.tensor.layout) == (width, "RGB", "NCHW")
    if resize.resize == "stretch":
        assert (resize.pixels(height), crop) == (height, [])
    else:
        assert [(step.crop, step.pixels(height)) for step in crop] == [("centre", height)]
    scale, mean, deviation = profile.tensor.steps
    assert scale.divide == (255.0,)
    constants = [name for name, pair in CONSTANTS.items() if pair == (mean.subtract, deviation.divide)]
    source, published = card.source, card.published
    weights = f"{source.model}:{source.revision}" if source.kind == "torchvision" else source.model
    return {
        "name": card.name,
        "weights": weights,
        "crop": str(height),
        "resize": "whole" if resize.resize == "stretch" else str(resize.pixels(height)),
        "filter": str(resize.filter).removeprefix("pillow_"),
        "constants": constants[0],
        "top-1": percent(published.top1),
        "top-5": percent(published.top5),
        "M": f"{published.parameters_millions:g}",
        "GMAC": f"{published.gmacs:g}",
    }


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.6g}"


def test_the_zoo_has_the_53_models_of_the_classifier_script() -> None:
    zoo = [card for card in load_cards().values() if card.source.kind in ("torchvision", "huggingface")]
    assert {card.name for card in zoo} == FACTS.keys()
    assert len(zoo) == 53
    assert sum(card.source.kind == "huggingface" for card in zoo) == 2


@pytest.mark.parametrize("name", FACTS)
def test_a_card_says_what_the_table_says(name: str) -> None:
    card = load_cards()[name]
    assert described(card) == {key: normal(text) for key, text in FACTS[name].items()}
    assert (card.output.kind, card.output.entries) == ("logits", 1000)
    assert (card.published.images == "") == (card.published.top1 is None)


def normal(text: str) -> str:
    return f"{float(text):.6g}" if re.fullmatch(r"[\d.]+", text) else text


def test_resnet_50_is_the_scripts_second_name_for_resnet50() -> None:
    cards = load_cards()
    one, other = cards["resnet-50"], cards["resnet50"]
    assert one.source.revision == "IMAGENET1K_V2"
    assert (one.source, one.input, one.output, one.published) == (
        other.source,
        other.input,
        other.output,
        other.published,
    )


@pytest.mark.parametrize("opset", ["8", "11"])
def test_mlperfs_file_keeps_its_probabilities_with_a_background_class(opset: str) -> None:
    card = load_cards()[f"mlperf_resnet50_opset{opset}"]
    assert (card.output.name, card.output.kind) == ("softmax_tensor:0", "probabilities")
    assert (card.output.classes, card.output.background, card.output.entries) == (1000, True, 1001)


def test_autosinian_gives_logits_of_1000_classes() -> None:
    output = load_cards()["ofa_autosinian_is176"].output
    assert (output.kind, output.entries, output.name) == ("logits", 1000, "")


ZOO_HASHES = {
    "bvlc_alexnet": "ef3c82dad5c512f969dbf701fe35c0b3feb1585687d541f765eb68730c0a8af7",
    "googlenet": "c99c507058eaf41de8723408fdda7db8325cb57f0a89f2ee07a716d6e963e14e",
    "resnet50-caffe2": "822daa93e11ecd505f282eb16e02d7fa6d7a88a4db0c9f832320798e508ba0dd",
    "resnet50-v1-7": "af16a04a6ec48ac494065d4439fe9dea590d337b9ca6dc328160ccf04a217b9c",
}
"""`model_sha` of the ONNX model zoo's manifest: of the ONNX file, not of the archive beside it."""


@pytest.mark.parametrize("name", ZOO_HASHES)
def test_hashes_are_of_the_onnx_file(name: str) -> None:
    source = load_cards()[name].source
    assert source.sha256 == ZOO_HASHES[name]
    assert all(url.endswith(".onnx") for url in source.urls)
    assert len(source.urls) == 3


FAMILIES = {
    "alexnet", "darknet", "densenet", "efficientnet", "inception", "mnasnet", "mobilenet", "ofa", "resnet",
    "shufflenet", "squeezenet", "vgg", "vit", "zfnet",
}  # fmt: skip


def documented(heading: str) -> set[str]:
    """The tags in the table of docs/zoo.md that starts with this heading."""
    table = DOCUMENT.read_text(encoding="utf-8").split(f"| {heading} |")[1].split("\n\n")[0]
    return {tag for line in table.splitlines() for tag in re.findall(r"`([^`]+)`", line.partition(" | ")[0])}


def test_every_card_has_one_family_and_the_families_are_documented() -> None:
    assert documented("family") == FAMILIES
    found = {name: FAMILIES & set(card.tags) for name, card in load_cards().items()}
    assert {name: tags for name, tags in found.items() if len(tags) != 1} == {}
    assert set.union(*found.values()) == FAMILIES


def test_every_other_tag_is_documented_or_an_architecture() -> None:
    cards = load_cards().values()
    tags = {tag for card in cards for tag in card.tags} - FAMILIES
    plain = documented("tag")
    assert plain <= tags
    starts = (*FAMILIES, "resnext", "wide_resnet", "googlenet")
    assert all(tag.startswith(starts) for tag in tags - plain)
    assert all(card.source.model in card.tags for card in cards if card.source.kind == "torchvision")


def names(*arguments: str) -> list[str]:
    code, out, error = run_topfive("models", *arguments, "--json")
    assert (code, error) == (0, "")
    return [row["name"] for row in json.loads(out)]


SELECTIONS = {
    "issue": (["mlperf,onnx,resnet50"], ["mlperf_resnet50_opset11", "mlperf_resnet50_opset8"]),
    "ck": (["model,image-classification,mlperf,onnx,resnet50,v1.5-opset-8"], ["mlperf_resnet50_opset8"]),
    "spaces": ([" mlperf , opset-11,"], ["mlperf_resnet50_opset11"]),
    "twice": (["huggingface", "--tags", "resnet"], ["resnet-152"]),
    "across": (
        ["resnet50"],
        [
            "light_resnet50",
            "mlperf_resnet50_opset11",
            "mlperf_resnet50_opset8",
            "resnet-50",
            "resnet50",
            "resnet50-caffe2",
            "resnet50-v1-7",
        ],
    ),
    "names too": (
        ["resnet", "*101*"],
        ["resnet101", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"],
    ),
    "vit": (["vit,zoo"], ["vit-base-patch16-224", "vit_b_16", "vit_b_32"]),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_tags_select_the_models_that_have_all_of_them(case: str) -> None:
    arguments, wanted = SELECTIONS[case]
    assert names("--tags", *arguments) == wanted


REFUSED = {
    "misspelt": (["models", "--tags", "resnet5O"], "unknown tag 'resnet5O': did you mean resnet50"),
    "unlike any": (["models", "--tags", "zzz"], "unknown tag 'zzz': known: alexnet, bundled, "),
    "no model has both": (
        ["models", "--tags", "vgg,mlperf"],
        "no model has all of the tags vgg (9), mlperf (3), where (n) have it: leave one out",
    ),
    "nor of that name": (
        ["fetch", "resnet18", "--tags", "mlperf"],
        "no model of the 1 named has all of the tags mlperf (0), where (n) have it: leave one out",
    ),
    "only commas": (["fetch", "--tags", " ,"], "name a model, or give --tags"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tags_that_select_nothing_are_an_error(case: str) -> None:
    arguments, words = REFUSED[case]
    code, out, error = run_topfive(*arguments)
    assert (code, out) == (2, "")
    assert words in " ".join(error.replace("│", " ").split())
