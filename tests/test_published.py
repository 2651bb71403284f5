"""Published figures: the makers' own numbers, one reader, and which networks they are shown beside."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topfive.cards import fixtures_root, load_cards
from topfive.errors import RecordError
from topfive.records.published import PublishedRow, published_for, published_rows, read_published

ROWS = published_rows()
MAGICMIND = fixtures_root() / "published" / "magicmind_resnet50.toml"
QUALCOMM = fixtures_root() / "published" / "qualcomm_aic100.toml"


def test_cambricon_s_rows_are_the_seed_s_tables() -> None:
    rows = published_rows(target="mlu370")
    throughputs = {(r.device, r.quant, r.batch): r.images_per_s for r in rows}
    assert len(throughputs) == len(rows) == 18
    assert throughputs["MLU370 S4", "force_float32", 1] == 193.47
    assert throughputs["MLU370 S4", "force_float16", 4] == 1947.97
    assert throughputs["MLU370 X4", "qint8_mixed_float16", 8] == 6966.43
    accuracies = {(r.device, r.quant): (r.top1, r.top5, r.images) for r in rows if r.top1}
    assert len(accuracies) == 6
    assert accuracies["MLU370 S4", "qint8_mixed_float16"] == (0.740741, 0.921922, 999)
    # 755, 926, 740 and 921 of 999 pictures.
    for top1, top5, images in accuracies.values():
        assert round(round(top1 * images) / images, 6) == top1
        assert round(round(top5 * images) / images, 6) == top5
    # Accuracy was measured at batch 1: it stands in the row of that batch.
    assert {r.batch for r in rows if r.top1} == {1}
    assert {(r.model, r.url) for r in rows} == {
        ("resnet50-v1-7", "https://github.com/Cambricon/magicmind_cloud")
    }


def test_qualcomm_s_rows_are_those_of_the_table_of_the_target() -> None:
    rows = published_rows(target="aic100")
    text = files("topfive.targets.aic100").joinpath("lut.csv").read_text(encoding="utf-8")
    stored = [row for row in csv.DictReader(text.splitlines()) if row["THPS"]]
    assert [(r.model, r.objective, r.batch, r.images_per_s, r.p95_ms) for r in rows] == [
        (s["MODEL_NAME"], s["OBJECTIVE"], int(s["BATCH_SIZE"]), float(s["THPS"]), float(s["LATENCY"]))
        for s in stored
    ]
    assert len(rows) == 100
    assert {(r.device, r.quant, r.top1) for r in rows} == {("Cloud AI 100", "force_float16", None)}
    found = {r.objective: (r.batch, r.images_per_s, r.p95_ms) for r in rows if r.model == "resnet50"}
    assert found == {"best-throughput": (13, 7623.0, 10.3), "best-latency": (1, 1075.0, 1.0)}
    (one,) = published_rows(target="aic100", model="vit_b_16")[:1]
    assert (one.batch, one.images_per_s, one.p95_ms) == (4, 1241.4, 45.7)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("resnet50", {"resnet50", "resnet50-v1-7"}),
        ("resnet-50", {"resnet50", "resnet50-v1-7"}),
        ("light_resnet50", {"resnet50", "resnet50-v1-7"}),
        ("mlperf_resnet50_opset8", {"resnet50", "resnet50-v1-7"}),
        ("ResNet50-caffe2", {"resnet50", "resnet50-v1-7"}),
        ("wide_resnet50_2", {"wide_resnet50_2"}),
        ("vgg16_bn", {"vgg16_bn"}),
        ("vgg16", {"vgg16"}),
        ("light_vgg19", {"vgg19"}),
        ("resnet-152", {"resnet152"}),
        ("mobilenet_v2_tf2ptq", {"mobilenet_v2"}),
        ("squeezenet10_deepcomp", {"squeezenet1_0"}),
        ("efficientnet_b2", {"efficientnet_b2"}),
        ("resnet500", set()),
        ("pocket_resnet", set()),
        ("mobilenet_v1_025_128", set()),
        ("light_squeezenet", set()),
    ],
)
def test_rows_are_shown_beside_networks_of_their_name(model: str, shown: set[str]) -> None:
    assert {row.model for row in published_for(model, ROWS)} == shown


def test_every_card_of_a_published_row_is_shown_its_own_rows() -> None:
    names = {row.model for row in ROWS}
    assert names <= set(load_cards())
    for name in names:
        assert [row for row in ROWS if row.model == name] == [
            row for row in published_for(name, ROWS) if row.model == name
        ]


def changed(tmp_path: Path, source: Path, old: str, new: str) -> Path:
    text = source.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "rows.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"images_per_s"]', '"speed"]', r"row 1: unknown columns speed"),
        ("193.47", "-1.0", "'images_per_s' cannot be -1.0"),
        ("193.47", "inf", "'images_per_s' cannot be inf"),
        ("193.47", "193", "'images_per_s' cannot be 193"),
        ("1, 193.47", "0, 193.47", "'batch' must be a whole number of 1 or more, not 0"),
        ("0.755756", "75.5756", "'top1' cannot be 75.5756"),
        ('["force_float32", 1, 193.47]', '["force_float32", 193.47]', "row 1: must have 3 values"),
        ('["force_float32", 4, 640.334]', '["force_float32", 1, 640.334]', "row 2: 'images_per_s' was given"),
        ("[[throughput]]", "[[throughput", "cannot be read"),
        ("[[throughput]]", "[throughput]", r"'throughput' must be tables|cannot be read"),
        ('columns = ["quant", "batch", "images_per_s"]', "columns = 3", "'columns' and 'rows' must be lists"),
        ("images = 999", "images = 0", "'images' must be a whole number"),
        ('target = "mlu370"', "target = 370", "'target' must be text"),
        ('url = "', 'uri = "', "'url' must be text"),
        ('tool = "', 'told = "', "'tool' must be text"),
    ],
    ids=lambda value: value if value.isidentifier() else None,
)
def test_malformed_rows_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        published_rows(changed(tmp_path, MAGICMIND, old, new))
    assert "rows.toml" in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("targets/aic100/lut.csv", "targets/aic100/none.csv", "none.csv cannot be read"),
        ("targets/aic100/lut.csv", "targets", "cannot be read"),
        ('"THPS"', '"SPEED"', "lacks the columns SPEED"),
        ('batch = "BATCH_SIZE"', 'batch = "TASK"', "line 2: 'batch' cannot be 'image-classification'"),
        ('batch = "BATCH_SIZE"\n', "", "line 2: 'batch' must be a whole number"),
        ('p95_ms = "LATENCY"', 'latency = "LATENCY"', "line 2: unknown columns latency"),
        ("[throughput.columns]", "[throughput.column]", "'columns' must say which column"),
    ],
    ids=["no_file", "folder", "column", "text", "no_batch", "unknown", "no_columns"],
)
def test_malformed_tables_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=words):
        published_rows(changed(tmp_path, QUALCOMM, old, new))


def test_files_that_are_none(tmp_path: Path) -> None:
    assert published_rows(tmp_path) == []
    with pytest.raises(RecordError, match=r"none\.toml cannot be read"):
        read_published(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match=r"x\.toml cannot be read"):
        published_rows(tmp_path)


ORIGIN = 'source = "s"\nurl = "u"\ntool = "t"\nmodel = "m"\ntarget = "cpu"\n'
FIGURE = st.floats(0.001, 1e6, allow_nan=False)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["int8", "force_float32"]), st.integers(1, 9)),
        st.tuples(FIGURE, st.none() | st.floats(0.01, 1)),
        min_size=1,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_throughput_and_accuracy_of_one_configuration_are_one_row(
    tmp_path: Path, cases: Mapping[tuple[str, str, int], tuple[float, float | None]]
) -> None:
    text = ORIGIN
    for (device, quant, batch), (rate, top1) in cases.items():
        text += f'[[throughput]]\ndevice = "{device}"\ncolumns = ["quant", "batch", "images_per_s"]\n'
        text += f'rows = [["{quant}", {batch}, {rate!r}]]\n'
        if top1 is not None:
            text += f'[[accuracy]]\ndevice = "{device}"\ncolumns = ["quant", "batch", "top1"]\n'
            text += f'rows = [["{quant}", {batch}, {top1!r}]]\n'
    (tmp_path / "rows.toml").write_text(text, encoding="utf-8")
    assert read_published(tmp_path / "rows.toml") == [
        PublishedRow("s", "u", "t", "m", "cpu", device, quant, batch, images_per_s=rate, top1=top1)
        for (device, quant, batch), (rate, top1) in cases.items()
    ]
