"""Model cards: strictness, what comes with topfive, and where files are looked for."""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topfive.cards import Card, card_for_file, find_card, fixtures_root, load_card, load_cards
from topfive.cards.places import expand
from topfive.cards.schema import read_toml
from topfive.errors import CardError, FetchError, UnknownNameError

VALID = {
    "name": "sample",
    "description": "a card",
    "tags": ["one", "two"],
    "trained": True,
    "quantised": False,
    "source": {"kind": "file", "path": "x.onnx", "sha256": "0" * 64},
    "input": {"size": [64, 48], "profile": "torchvision"},
    "output": {"kind": "logits", "classes": 10, "background": False, "labels": "file:names.txt"},
    "pictures": {"set": "folder:pictures", "count": 5, "map": "map.txt"},
    "calibration": {"set": "folder:pictures", "count": 5, "step": 2, "offset": 1, "table": "t.json"},
    "published": {"top1": 0.5, "top5": 0.9, "images": "some"},
}


def toml(value) -> str:
    """An inline TOML value of anything that tomllib can return."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return value.isoformat() if isinstance(value, datetime.date) else repr(value)


def write_card(folder: Path, table: dict, name: str = "sample") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(
        "".join(f"{toml(key)} = {toml(value)}\n" for key, value in table.items()), encoding="utf-8"
    )
    return path


def changed(**sections) -> dict:
    table = copy.deepcopy(VALID)
    for section, keys in sections.items():
        if isinstance(keys, dict) and isinstance(VALID.get(section), dict):
            table[section] = {**table[section], **keys}
        else:
            table[section] = keys
    return table


def test_every_key_arrives(tmp_path):
    card = load_card(write_card(tmp_path, VALID))
    assert (card.name, card.tags, card.trained, card.quantised) == ("sample", ("one", "two"), True, False)
    assert card.input.size == (64, 48)
    assert card.output.entries == 10
    assert (card.calibration.count, card.calibration.step, card.calibration.offset) == (5, 2, 1)
    assert (card.published.top1, card.published.top5) == (0.5, 0.9)
    assert card.path == tmp_path / "sample.toml"
    assert card.source_path() == tmp_path / "x.onnx"
    assert card.labels_path() == tmp_path / "names.txt"
    assert card.pictures_folder() == card.calibration_folder() == tmp_path / "pictures"
    assert card.pictures_map() == tmp_path / "map.txt"
    assert card.calibration_table() == tmp_path / "t.json"


def test_optional_sections_have_defaults(tmp_path):
    table = {key: VALID[key] for key in ("name", "description", "source", "input", "output", "pictures")}
    card = load_card(write_card(tmp_path, table))
    assert (card.calibration.set, card.calibration.count) == ("folder:pictures", 64)
    assert (card.trained, card.tags, card.published.top1) == (True, (), None)


FAULTS = {
    "unknown-top": (changed(trainde=True), "unknown key 'trainde': did you mean 'trained'?"),
    "unknown-nested": (changed(input={"sise": 3}), "unknown key 'input.sise': did you mean 'size'?"),
    "unknown-far": (
        changed(published={"zz": 3}),
        "unknown key 'published.zz': the keys here are top1, top5, images",
    ),
    "string-for-number": (
        changed(output={"classes": "10"}),
        "'output.classes' must be a whole number, not the string",
    ),
    "float-for-number": (changed(output={"classes": 10.0}), "'output.classes' must be a whole number"),
    "bool-for-number": (
        changed(output={"classes": True}),
        "'output.classes' must be a whole number, not true",
    ),
    "number-for-bool": (changed(trained=1), "'trained' must be true or false, not the number 1"),
    "number-for-string": (changed(description=5), "'description' must be a string"),
    "value-for-table": (
        changed(source="x.onnx"),
        "'source' must be a table ([source]), not the string 'x.onnx'",
    ),
    "table-for-string": (changed(name={"a": 1}), "'name' must be a string, not a table"),
    "size-of-three": (
        changed(input={"size": [3, 64, 64]}),
        "'input.size' must be a list of 2, each item a whole",
    ),
    "size-of-strings": (changed(input={"size": ["64", "64"]}), "'input.size[0]' must be a whole number"),
    "size-negative": (changed(input={"size": [64, -64]}), "'input.size' must be [height, width] of 1 to"),
    "tag-number": (changed(tags=["a", 1]), "'tags[1]' must be a string"),
    "nan": (changed(published={"top1": float("nan")}), "'published.top1' must be a finite number"),
    "per-cent": (changed(published={"top1": 76.1}), "'published.top1' must be a fraction from 0.0 to 1.0"),
    "top1-over-top5": (changed(published={"top1": 0.95}), "less than 'top1'"),
    "other-name": (changed(name="other"), "is 'other', but the file is sample.toml"),
    "kind": (changed(output={"kind": "softmax"}), "'output.kind' must be one of logits, probabilities"),
    "source-kind": (
        changed(source={"kind": "ftp"}),
        "'source.kind' must be one of bundled, file, light, url",
    ),
    "key-of-other-kind": (changed(source={"seed": 3}), "'source.seed' does not go with kind 'file'"),
    "no-path": (changed(source={"path": ""}), "'source.path' is missing or empty: kind 'file' needs it"),
    "sha256": (changed(source={"sha256": "abc"}), "'source.sha256' must be 64 hexadecimal digits"),
    "bundled-escape": (
        changed(source={"kind": "bundled", "path": "../x.onnx"}),
        "inside the fixtures folder",
    ),
    "url-scheme": (
        changed(source={"kind": "url", "path": "", "urls": ["ftp://host/x.onnx"]}),
        "'source.urls' must be http:// or https://",
    ),
    "url-without-urls": (
        changed(source={"kind": "url", "path": "", "sha256": "", "urls": []}),
        "'source.urls' is missing or empty: kind 'url' needs it",
    ),
    "set-escape": (changed(pictures={"set": "../up"}), "'pictures.set' must be a picture set's name or"),
    "no-pictures": (changed(pictures={"count": 0}), "'pictures.count' must be 1 to"),
    "step": (changed(calibration={"step": 0}), "'calibration.step' must be 1 to"),
    "nul": (changed(source={"path": "a\0b"}), "'source.path' holds a NUL character"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault_names_file_key_and_wish(case, tmp_path):
    table, words = FAULTS[case]
    path = write_card(tmp_path, table)
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "key", ["name", "source", "input.size", "output.kind", "pictures.set", "calibration.count"]
)
def test_missing_key(key, tmp_path):
    table = copy.deepcopy(VALID)
    section, _, last = key.rpartition(".")
    del (table[section] if section else table)[last]
    with pytest.raises(CardError, match=f"key '{key}' is missing"):
        load_card(write_card(tmp_path, table))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"name = 'a'\nname = 'b'\n", "is not valid TOML", id="twice"),
        pytest.param(b"name = \n", "is not valid TOML", id="syntax"),
        pytest.param(b"\xff\xfe", "is not UTF-8 text", id="utf16"),
        pytest.param(b"a = " + b"[" * 100_000, "nested too deeply", id="deep"),
        pytest.param(b"pictures = " + b"9" * 9000, "TOML", id="digits"),
        pytest.param(b"description = 0x" + b"f" * 9000, "bits", id="hexadecimal"),
        pytest.param(b"description = ''\n[published]\ntop1 = 0x" + b"f" * 9000, "finite", id="huge-fraction"),
    ],
)
def test_not_a_card(content, words, tmp_path):
    path = tmp_path / "sample.toml"
    path.write_bytes((b"" if b"0x" not in content else toml_head()) + content)
    with pytest.raises(CardError, match=words) as caught:
        load_card(path)
    assert str(path) in str(caught.value)


def toml_head() -> bytes:
    table = {key: value for key, value in VALID.items() if key not in ("description", "published")}
    return "".join(f"{key} = {toml(value)}\n" for key, value in table.items()).encode()


def test_unreadable_card(tmp_path):
    with pytest.raises(CardError, match="cannot be read"):
        load_card(tmp_path / "absent.toml")


KEYS = [(None, key) for key in VALID] + [
    (section, key) for section, table in VALID.items() if isinstance(table, dict) for key in table
]
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("abc", min_size=1), v)
)
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@quick
@given(place=st.sampled_from(KEYS), value=VALUES)
def test_any_value_is_a_card_or_a_card_error(place, value, tmp_path):
    section, key = place
    path = write_card(tmp_path, changed(**({key: value} if section is None else {section: {key: value}})))
    try:
        card = load_card(path)
    except CardError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert isinstance(card.missing_reason(), str)
        assert value == getattr(card if section is None else getattr(card, section), key) or isinstance(
            value, (list, dict)
        )


@quick
@given(
    section=st.sampled_from([None, *(s for s, t in VALID.items() if isinstance(t, dict))]),
    key=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    value=SCALARS,
)
def test_any_unknown_key_is_named(section, key, value, tmp_path):
    if (section, key) in KEYS or (
        section == "source" and key in ("architecture", "seed", "urls", "model", "revision")
    ):
        return
    path = write_card(tmp_path, changed(**({key: value} if section is None else {section: {key: value}})))
    with pytest.raises(CardError, match="unknown key") as caught:
        load_card(path)
    assert repr(f"{section}.{key}" if section else key) in str(caught.value)


@quick
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_card_error(content, tmp_path):
    path = tmp_path / "sample.toml"
    path.write_bytes(content)
    with pytest.raises(CardError, match=r"sample\.toml"):
        load_card(path)


def test_own_cards_are_the_documented_ones():
    names = load_cards().keys()
    assert {f"pocket_{name}" for name in ("resnet", "mobilenet", "fire", "vit")} <= names
    assert len([name for name in names if name.startswith("light_")]) == 9
    assert list(names) == sorted(names)


def test_untrained_cards_have_no_labels_or_accuracies():
    for card in load_cards().values():
        if not card.trained:
            assert card.labels() == ()
            assert card.published.top1 is None


@pytest.mark.parametrize("name", ["pocket_resnet", "pocket_mobilenet", "pocket_fire", "pocket_vit"])
def test_bundled_model_is_the_cards(name):
    card = load_cards()[name]
    assert card.missing_reason() == ""
    assert hashlib.sha256(card.source_path().read_bytes()).hexdigest() == card.source.sha256
    assert len(card.labels()) == 100


@pytest.mark.realdata
def test_realdata_files_are_the_cards():
    cards = [card for card in load_cards().values() if "realdata" in card.tags]
    if cards[0].missing_reason():
        pytest.skip(cards[0].missing_reason())
    assert len(cards) == 7
    for card in cards:
        assert card.missing_reason() == ""
        assert hashlib.sha256(card.source_path().read_bytes()).hexdigest() == card.source.sha256
        assert card.labels()[207] == "golden retriever"


def test_own_cards_are_read_once_a_process(tmp_path, monkeypatch):
    write_card(tmp_path, changed(name="mine"), "mine")
    load_cards([tmp_path])
    read = []
    monkeypatch.setattr("topfive.cards.loader.read_toml", lambda path: read.append(path) or read_toml(path))
    assert len(load_cards([tmp_path])) > 60
    assert [path.name for path in read] == ["mine.toml"]


def test_loading_imports_no_heavy_library():
    code = (
        "import sys; from topfive.cards import load_cards; load_cards();"
        "print([name for name in ('onnx', 'onnxruntime', 'PIL', 'numpy', 'pooch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folders_files_and_environment(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "a"), (second, "b"), (second, "c")):
        folder.mkdir(exist_ok=True)
        write_card(folder, changed(name=name), name)
    monkeypatch.setenv("TOPFIVE_CARDS", str(first))
    assert {"a", "c"} == load_cards([second / "c.toml"]).keys() - load_cards([first]).keys() | {"a"}
    link = tmp_path / "link"
    link.symlink_to(first)
    assert "a" in load_cards([first, link])  # the same file by three ways is one card
    with pytest.raises(CardError, match="does not exist"):
        load_cards([tmp_path / "absent"])


def test_name_claimed_twice(tmp_path):
    path = write_card(tmp_path, changed(name="light_vgg19"), "light_vgg19")
    with pytest.raises(CardError, match="two cards are named 'light_vgg19'") as caught:
        load_cards([tmp_path])
    assert str(path) in str(caught.value)
    assert str(load_cards()["light_vgg19"].path) in str(caught.value)


def test_unknown_name_gives_nearest():
    with pytest.raises(UnknownNameError, match="did you mean pocket_resnet"):
        find_card("poket_resnet", load_cards())


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("$SOME/x", "/some/x", id="plain"),
        pytest.param("${SOME}x/y", "/somex/y", id="braces"),
        pytest.param("x/$SOME_", None, id="other-name"),
        pytest.param("$$SOME/x", "/base/$SOME/x", id="dollar"),
        pytest.param("x.onnx", "/base/x.onnx", id="relative"),
        pytest.param("~/x", "/home/who/x", id="home"),
        pytest.param("~nobody-here/x", None, id="no-such-user"),
    ],
)
def test_expansion(text, result, monkeypatch):
    monkeypatch.setenv("SOME", "/some")
    monkeypatch.setenv("HOME", "/home/who")
    monkeypatch.delenv("SOME_", raising=False)
    if result is None:
        with pytest.raises(CardError, match=r"SOME_ is not set|no home folder"):
            expand(text, Path("/base"))
    else:
        assert expand(text, Path("/base")) == Path(result)


def test_missing_reason_names_what_is_absent(tmp_path, monkeypatch):
    table = changed(source={"path": "$SAMPLE_DATA/x.onnx"})
    card = load_card(write_card(tmp_path, table))
    monkeypatch.delenv("SAMPLE_DATA", raising=False)
    assert "SAMPLE_DATA is not set" in card.missing_reason()
    monkeypatch.setenv("SAMPLE_DATA", str(tmp_path))
    wanted = ["x.onnx", "names.txt", "pictures", "map.txt"]
    for name in wanted:
        assert card.missing_reason().endswith(f"not found: {tmp_path / name}")
        (tmp_path / name).touch()
    assert card.missing_reason() == ""


def test_fixtures_root_by_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPFIVE_FIXTURES", str(tmp_path))
    assert fixtures_root() == tmp_path
    assert load_cards()["pocket_vit"].missing_reason().startswith("model not found")
    monkeypatch.setenv("TOPFIVE_FIXTURES", str(tmp_path / "absent"))
    with pytest.raises(CardError, match="TOPFIVE_FIXTURES"):
        fixtures_root()
    assert "TOPFIVE_FIXTURES" in load_cards()["pocket_vit"].missing_reason()


@pytest.mark.parametrize("lines", [9, 11])
def test_labels_of_the_wrong_length(lines, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"class {n}\n" for n in range(lines)), encoding="utf-8")
    card = load_card(write_card(tmp_path, VALID))
    with pytest.raises(CardError, match=f"has {lines} lines, but 'output.classes' is 10"):
        card.labels()


def test_labels_without_file_or_utf8(tmp_path):
    card = load_card(write_card(tmp_path, VALID))
    with pytest.raises(CardError, match=r"output\.labels.*names\.txt cannot be read"):
        card.labels()
    (tmp_path / "names.txt").write_bytes(b"\xff\n" * 10)
    with pytest.raises(CardError, match=r"names\.txt cannot be read"):
        card.labels()


def test_background_class_has_no_label(tmp_path):
    (tmp_path / "names.txt").write_text("x\n" * 10, encoding="utf-8")
    card = load_card(write_card(tmp_path, changed(output={"background": True})))
    assert (card.output.entries, len(card.labels())) == (11, 10)


def test_card_for_a_bare_file(tmp_path):
    own = load_cards()["pocket_mobilenet"]
    path = tmp_path / "my $HOME model.onnx"
    path.write_bytes(own.source_path().read_bytes())
    card = card_for_file(path)
    assert isinstance(card, Card)
    assert (card.name, card.input.size, card.output.entries) == ("my__HOME_model", (64, 64), 100)
    assert (card.output.kind, card.quantised, card.source_path()) == ("logits", False, path)
    with pytest.raises(FetchError, match="cannot be read"):
        card_for_file(tmp_path / "absent.onnx")


def test_documented_example_is_a_card(tmp_path):
    document = Path(__file__).parent.parent / "docs" / "adding-a-model.md"
    example = document.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    (tmp_path / "my_net.toml").write_text(example.replace('"..."', f'"{"0" * 64}"'), encoding="utf-8")
    assert load_card(tmp_path / "my_net.toml").calibration.step == 3
