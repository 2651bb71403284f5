"""The parts of `aic100` that need no tools: configurations, command lines, and what the tools say."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topfive.errors import OptionError, RunError
from topfive.targets.aic100 import device
from topfive.targets.aic100.agreement import check_agreement, compare
from topfive.targets.aic100.configuration import (
    COLUMNS,
    OBJECTIVES,
    Configuration,
    configure,
    look_up,
    read_table,
    table_source,
)
from topfive.targets.aic100.device import DeviceState, parse_query, too_many, unready, wait_until_ready
from topfive.targets.aic100.figures import (
    LITTLE_FACTOR,
    Statistics,
    check_statistics,
    little_warning,
    parse_statistics,
    read_latencies,
    short_warning,
)
from topfive.targets.aic100.provider import settings as provider_settings
from topfive.targets.aic100.provider import write_settings
from topfive.targets.aic100.runner import clipped_warning
from topfive.targets.aic100.target import Aic100Target
from topfive.targets.aic100.toolchain import compile_command, inference_command, privileged, run_command
from topfive.targets.aic100.work import input_flags, write_commands, write_input

OURS = read_table(table_source(""))
HEADER = (
    "MODEL_NAME,TASK,BATCH_SIZE,IMAGE_SIZE,CORES,INSTANCES,OLS,MOS,EXTRA,SET_SIZE,"
    "PRECISION,OBJECTIVE,THPS,LATENCY"
)


def table(tmp_path: Path, *rows: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
    path = tmp_path / "lut_cv_classifiers.csv"
    path.write_bytes("\r\n".join((header, *rows, "")).encode(encoding))
    return path


# Configurations


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("best-throughput", (14, 224, 1, 14, "2", "", 10)),
        ("best-latency", (1, 224, 14, 1, "1", "", 1)),
        ("balanced", (1, 224, 4, 3, "1", "", 2)),
    ],
)
def test_the_defaults_of_each_objective(objective: str, expected: tuple[object, ...]) -> None:
    found = configure("no_such_model", {"objective": objective}, OURS)
    assert (
        found.batch_size,
        found.image_size,
        found.cores,
        found.instances,
        found.ols,
        found.mos,
        found.set_size,
    ) == expected
    assert set(found.origins.values()) == {"default"}
    assert (found.extra, found.notes, found.published) == ((), (), None)


def test_the_tuned_rows() -> None:
    fast = configure("resnet50", {}, OURS)
    assert fast.motif == "B13-C7-A2-OLS2-MOS1-best-throughput"
    assert (fast.set_size, fast.extra, fast.published) == (3, ("-multicast-weights",), (7623.0, 10.3))
    quick = configure("resnet50", {"objective": "best-latency"}, OURS)
    assert quick.motif == "B1-C12-A1-OLS1-MOS12-best-latency"
    assert quick.extra == ("-multicast-weights", "-use-producer-dma=1")
    assert (quick.set_size, quick.published) == (1, (1075.0, 1.0))
    assert set(fast.origins.values()) == set(quick.origins.values()) == {"table"}


def test_published_figures_go_with_a_whole_row_only() -> None:
    assert configure("resnet50", {"cores": "2"}, OURS).published is None
    assert configure("resnet50", {"objective": "balanced"}, OURS).published is None


def test_little_s_law_holds_for_the_published_rows() -> None:
    for objective, latency in (("best-throughput", 10.2), ("best-latency", 0.93)):
        found = configure("resnet50", {"objective": objective}, OURS)
        assert found.published is not None
        rate, milliseconds = found.published
        expected = 1e3 * found.instances * found.set_size * found.batch_size / rate
        assert round(expected, 1 if expected > 1 else 2) == latency
        pictures = {
            "batch": found.batch_size,
            "instances": found.instances,
            "set_size": found.set_size,
        }
        assert little_warning(rate, milliseconds / 1e3, **pictures) == ""
        assert "Little's law" in little_warning(rate, 2 * milliseconds / 1e3, **pictures)


def test_any_row_of_a_model_when_the_objective_has_none(tmp_path: Path) -> None:
    found = configure("resnet50", {"objective": "balanced"}, OURS)
    assert found.motif == "B13-C7-A2-OLS2-MOS1-best-throughput"
    assert found.notes == (
        "the table has no row of resnet50 for balanced: its row for best-throughput is taken",
    )
    # Empty cells are filled with the defaults of the row's objective, not of the one that was asked for.
    rows = read_table(table(tmp_path, "m,,5,,,,,,,,fp16,best-latency,,"))
    assert configure("m", {"objective": "balanced"}, rows).motif == "B5-C14-A1-OLS1-best-latency"


def test_a_table_as_the_vendor_writes_it(tmp_path: Path) -> None:
    rows = read_table(
        table(
            tmp_path,
            'a,image-classification,8,224,2,7,1,"1,7", -multicast-weights,3,fp16,best-throughput,10,2.5',
            ",,,,,,,,,,,,,",
            "",
            "b,image-classification,,,,,,,,,fp16,balanced,,",
            "a,image-classification,9,224,2,7,1,,,3,fp32,best-latency,,",
            encoding="utf-8-sig",
        )
    )
    assert [row["MODEL_NAME"] for row in rows] == ["a", "b", "a"]
    first = configure("a", {}, rows)
    assert (first.mos, first.extra, first.motif) == (
        "1,7",
        ("-multicast-weights",),
        "B8-C2-A7-OLS1-MOS1,7-best-throughput",
    )
    assert configure("b", {"objective": "balanced"}, rows).motif == "B1-C4-A3-OLS1-balanced"
    # Another precision is another table's.
    assert look_up(rows, "a", "best-latency") == (rows[0], False)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["m,,x,,,,,,,,fp16,best-latency,,"], "line 2: BATCH_SIZE is 'x'"),
        (["m,,0,,,,,,,,fp16,best-latency,,"], "line 2: BATCH_SIZE is '0'"),
        (["", "m,,-3,,,,,,,,fp16,best-latency,,"], "line 3: BATCH_SIZE is '-3'"),
        (['m,,,,,,,"1,,7",,,fp16,best-latency,,'], "line 2: MOS is '1,,7'"),
        (["m,,,,,,,,no-dash,,fp16,best-latency,,"], "'no-dash' is no flag"),
        (["m,,,,,,,, -ols=4,,fp16,best-latency,,"], "'-ols=4' is given to the compiler already"),
        (["m,,,,,,,,-a='b,,fp16,best-latency,,"], "cannot be split"),
        (["m,,,,,,,,,,fp16,../../x,,"], "OBJECTIVE is '../../x'"),
        ([",,,,,,,,,,fp16,best-latency,,"], "must not be empty"),
        (["m,,,,,,,,,,fp16,best-latency,,,,,"], "more values than columns"),
        (['m,"open,,,,,,,,,fp16,best-latency,,'], "cannot be read"),
    ],
    ids=[
        "text",
        "zero",
        "negative",
        "list",
        "flag",
        "taken_flag",
        "quotes",
        "path",
        "no_model",
        "long_row",
        "open_quote",
    ],
)
def test_malformed_tables(tmp_path: Path, rows: list[str], words: str) -> None:
    path = table(tmp_path, *rows)
    with pytest.raises(OptionError) as caught:
        read_table(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(OptionError, match="cannot be read"):
        read_table(table(tmp_path, "m", encoding="utf-16"))
    with pytest.raises(OptionError, match=r"lacks the columns EXTRA, MOS$"):
        read_table(table(tmp_path, header=HEADER.replace("MOS,EXTRA,", "")))
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(OptionError, match="lacks the columns"):
        read_table(empty)


NUMBERS = st.integers(1, 14).map(str)
CELLS = st.one_of(st.just(""), NUMBERS)


@given(
    st.fixed_dictionaries({column: CELLS for column in COLUMNS if column != "EXTRA"}),
    st.dictionaries(st.sampled_from([o for o in COLUMNS.values() if o != "extra"]), NUMBERS),
    st.sampled_from(OBJECTIVES),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_options_before_the_table_before_defaults(
    tmp_path: Path, cells: dict[str, str], chosen: dict[str, str], objective: str
) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, HEADER.split(","))
    writer.writeheader()
    writer.writerow({**cells, "MODEL_NAME": "m", "OBJECTIVE": objective, "PRECISION": "fp16"})
    path = tmp_path / "table.csv"
    path.write_text(stream.getvalue(), encoding="utf-8")
    found = configure("m", {"objective": objective, **chosen}, read_table(path))
    default = configure("other", {"objective": objective}, OURS)
    for column, option in COLUMNS.items():
        name = option.replace("-", "_")
        value, origin = getattr(default, name), "default"
        for source, given_value in (("table", cells.get(column)), ("option", chosen.get(option))):
            if given_value:
                value, origin = type(value)(given_value), source
        assert (getattr(found, name), found.origins[option]) == (value, origin)
    assert Configuration.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_a_flag_of_the_table_can_be_left_out() -> None:
    found = configure("resnet50", {"extra": "none", "mos": "none"}, OURS)
    assert (found.extra, found.mos) == ((), "")
    assert (found.origins["extra"], found.origins["mos"]) == ("option", "option")


@pytest.mark.parametrize("extra", ["-convert-to-fp16", "--mos=2", "-aic-binary-dir=/tmp/x", "-m=other.onnx"])
def test_extra_flags_cannot_say_again_what_is_said(extra: str) -> None:
    with pytest.raises(OptionError, match="is given to the compiler already"):
        configure("m", {"extra": extra}, ())


@pytest.mark.parametrize(
    "chosen",
    [
        {"cores": "0"},
        {"cores": "15"},
        {"set-size": "11"},
        {"device": "8"},
        {"objective": "fastest"},
        {"batch-size": "0"},
        {"mos": "1,"},
        {"extra": "multicast-weights"},
        {"time": "0"},
        {"sudo": "sudo; rm -rf /"},
        {"tolerance": "many"},
        {"heat": "1"},
    ],
    ids=lambda chosen: "_".join(map("=".join, chosen.items())),
)
def test_impossible_options(chosen: Mapping[str, str]) -> None:
    with pytest.raises(OptionError):
        Aic100Target().configured(chosen)


# Command lines


def test_the_documented_commands() -> None:
    chosen = configure("resnet50", {"objective": "best-latency"}, OURS)
    motif = "B1-C12-A1-OLS1-MOS12-best-latency"
    assert shlex.join(compile_command("/opt/qti-aic/exec/qaic-exec", chosen, {"batch_size": 1})) == (
        "/opt/qti-aic/exec/qaic-exec -m=./model/model.onnx -onnx-define-symbol=batch_size,1 -aic-hw "
        "-aic-hw-version=2.0 -aic-num-cores=12 -ols=1 -convert-to-fp16 -compile-only "
        f"-aic-binary-dir=./compiled-bin-fp16-{motif} -stats-batchsize=1 -multicast-weights "
        "-use-producer-dma=1 -mos=12"
    )
    runner = "/opt/qti-aic/exec/qaic-runner"
    found = run_command(runner, chosen, seconds=20, device=3, inputs=input_flags("json", (1, 3, 224, 224)))
    assert shlex.join(found) == (
        f"{runner} -t ./compiled-bin-fp16-{motif} -a 1 --time 20 --aic-profiling-type latency "
        f"--aic-profiling-num-samples 999999 --aic-profiling-out-dir ./outputFiles/fp16-{motif} "
        f"-write-output-dir ./outputFiles/fp16-{motif} -S 1 -d 3 "
        "--aic-batch-json-input ./inputFiles/aic_batch_io.json"
    )
    once = inference_command(runner, chosen, device=0, inputs=input_flags("file", (1, 3, 224, 224)))
    assert shlex.join(once) == (
        f"{runner} -t ./compiled-bin-fp16-{motif} -a 1 -n 1 -write-output-dir ./outputFiles/fp16-{motif} "
        "-S 1 -d 0 -i ./inputFiles/input_img_1x3x224x224.raw"
    )


def test_a_fixed_batch_defines_no_symbol_and_a_default_no_mos() -> None:
    found = compile_command("qaic-compile", configure("m", {}, ()), {})
    assert not [flag for flag in found if flag.startswith(("-onnx-define-symbol", "-mos"))]


def test_root_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert privileged("auto") == privileged("no") == []
    assert privileged("sudo -n") == ["sudo", "-n"]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert privileged("auto") == ["sudo"]
    assert privileged("no") == []


def test_the_files_of_an_input(tmp_path: Path) -> None:
    (tmp_path / "inputFiles").mkdir()
    batch = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    write_input(tmp_path, batch[:, :, ::-1])
    raw = tmp_path / "inputFiles" / "input_img_2x3x4x5.raw"
    assert np.array_equal(np.fromfile(raw, "<f4").reshape(2, 3, 4, 5), batch[:, :, ::-1])
    listed = (tmp_path / "list_2x3x4x5.txt").read_text(encoding="utf-8")
    assert listed == "./inputFiles/input_img_2x3x4x5.raw"
    described = json.loads((tmp_path / "inputFiles" / "aic_batch_io.json").read_text(encoding="utf-8"))
    assert described == {
        "IO-files": [
            [
                {
                    "path": "input_img_2x3x4x5.raw",
                    "io-direction": "in",
                    "elem-size": 4,
                    "map-to": "input",
                    "dims": [2, 3, 4, 5],
                }
            ]
        ]
    }


def test_the_file_of_commands(tmp_path: Path) -> None:
    chosen = configure("m", {}, ())
    write_commands(tmp_path, chosen, ["compile it", "run it"])
    text = (tmp_path / "commands-B14-C1-A14-OLS2-best-throughput.txt").read_text(encoding="utf-8")
    assert text == ("rm -rf compiled-bin-fp16-B14-C1-A14-OLS2-best-throughput\n\ncompile it\n\nrun it\n\n")


# The statistics line

LINE = "InferenceCnt 21961 TotalDuration 20063118us BatchSize 4 Inf/Sec 4378.382"


def test_clipped_weights_are_said() -> None:
    assert clipped_warning({}) == ""
    assert clipped_warning({"a.w": 3, "b": 1}).endswith("clipped to +-65504: 3 of a.w, 1 of b")


@pytest.mark.parametrize(
    ("inferences", "microseconds", "latencies", "words"),
    [
        (21961, 20063118, 21961, ""),
        (21961, 19000000, 21961, ""),
        (21961, 18999999, 21961, "it measured for 19.00 s, 20 s were asked for"),
        (21961, 20063118, 21960, "there are latencies of 21960 inferences, 21961 were counted"),
        (5, 1, 6, "it measured for 0.00 s, 20 s were asked for; there are latencies of 6 inferences, 5"),
    ],
    ids=["whole", "nearly", "early", "cut", "both"],
)
def test_a_measurement_that_is_not_whole_is_said(
    inferences: int, microseconds: int, latencies: int, words: str
) -> None:
    found = short_warning(Statistics(inferences, microseconds, 4, 1.0), latencies, 20)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_the_documented_statistics() -> None:
    found = parse_statistics(f"Writing file:x\n ---- Stats ----\n{LINE}\nWriting file:y\n")
    assert found == Statistics(21961, 20063118, 4, 4378.382)
    check_statistics(found, 4)


@given(st.integers(1, 10**6), st.integers(1, 10**9), st.integers(1, 512))
def test_statistics_that_are_right_pass_and_others_do_not(count: int, microseconds: int, batch: int) -> None:
    rate = count * 1e6 / microseconds * batch
    text = f"InferenceCnt {count} TotalDuration {microseconds}us BatchSize {batch} Inf/Sec {rate:.3f}"
    found = parse_statistics(text)
    check_statistics(found, batch)
    with pytest.raises(RunError, match="contradicts itself"):
        check_statistics(replace(found, images_per_s=1.01 * rate + 0.01), batch)
    with pytest.raises(RunError, match="compiled for"):
        check_statistics(found, batch + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Inf/Sec 4378.382",
        f"{LINE}\n{LINE}",
        LINE.replace("us", " us"),
        LINE.replace("4378.382", "nan"),
        LINE.replace("4378.382", "4378,382"),
        LINE.replace("21961", "-1"),
        f"{LINE} and more",
        f"so {LINE}",
    ],
    ids=["nothing", "part", "twice", "space", "nan", "comma", "negative", "more", "before"],
)
def test_statistics_of_another_form(text: str) -> None:
    with pytest.raises(RunError, match="qaic-runner"):
        parse_statistics(text)


@pytest.mark.parametrize(
    "found", [Statistics(0, 10, 1, 0.0), Statistics(10, 0, 1, 0.0)], ids=["no", "no_time"]
)
def test_statistics_of_nothing(found: Statistics) -> None:
    with pytest.raises(RunError, match="finished no inference"):
        check_statistics(found, 1)


# Latency files

NAMES = ("Sample", "hostRoundTripUs", "execTotalUs", "totalRoundtripTimeUs", "queueDepth", "numInfInQueue")


def latency_file(path: Path, values: list[str], names: tuple[str, ...] = NAMES, *, ending: str = "") -> Path:
    lines = ["h1", "h2", "h3", "h4", ", ".join(names) + ending]
    lines += [f"{n}, 1.0, 2.0, {value}, 0, 1{ending}" for n, value in enumerate(values)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@given(st.lists(st.lists(st.floats(1, 1e7), min_size=1, max_size=30), min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_latencies_of_all_instances(tmp_path: Path, files: list[list[float]]) -> None:
    paths = [
        latency_file(tmp_path / f"{n}.txt", [f"{v:.3f}" for v in values]) for n, values in enumerate(files)
    ]
    found = read_latencies(paths)
    every = np.array([round(value, 3) for values in files for value in values]) / 1e6
    assert found.column == "totalRoundtripTimeUs"
    assert found.seconds == pytest.approx(every)
    assert found.mean == pytest.approx(every.mean())
    for percent in (50, 90, 95, 99):
        assert found.percentile(percent) == pytest.approx(np.percentile(every, percent))


def test_the_column_is_taken_by_name_wherever_it_stands(tmp_path: Path) -> None:
    names = ("Sample", "a", "b", "c", "queueDepth", " totalRoundtripTimeUs ")
    path = tmp_path / "x.txt"
    path.write_text(f"1\n2\n3\n4\n{','.join(names)},\n0,1,2,3,4,5000,\n", encoding="utf-8")
    assert read_latencies([path]).seconds == (0.005,)


def test_without_its_name_the_third_from_the_end_is_taken_and_said(tmp_path: Path) -> None:
    names = (*NAMES[:3], "Execution Total Time in us", *NAMES[4:])
    found = read_latencies([latency_file(tmp_path / "x.txt", ["1000", "3000"], names)])
    assert (found.column, found.seconds) == ("Execution Total Time in us", (0.001, 0.003))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line of column names"),
        ("1\n2\n3\n4\n", "no line of column names"),
        ("1\n2\n3\n4\na,b\n1,2\n", "no line of column names"),
        ("1\n2\n3\n4\na,b,c,d\n", "has no inference"),
        ("1\n2\n3\n4\na,b,c,d\n1,2,3,4\n1,N/A,3,4\n", "line 7: 'N/A' is no time"),
        ("1\n2\n3\n4\na,b,c,d\n1,nan,3,4\n", "line 6: 'nan' is no time"),
        ("1\n2\n3\n4\na,b,c,d\n1,-5,3,4\n", "line 6: '-5' is no time"),
        ("1\n2\n3\n4\na,b,c,d\n1,0,3,4\n", "line 6: '0' is no time"),
        ("1\n2\n3\n4\na,b,c,d\n1,2,3\n", "line 6: has 3 values, not 4"),
    ],
    ids=["empty", "header", "columns", "none", "text", "nan", "negative", "zero", "short"],
)
def test_latency_files_of_another_form(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "aic-profiling-program-0-latency.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError) as caught:
        read_latencies([path])
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_latency_files_that_are_missing_or_differ(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="wrote no latency file"):
        read_latencies([])
    with pytest.raises(RunError, match="cannot be read"):
        read_latencies([tmp_path / "none.txt"])
    one = latency_file(tmp_path / "1.txt", ["5"])
    other = latency_file(tmp_path / "2.txt", ["5"], (*NAMES[:3], "else", *NAMES[4:]))
    with pytest.raises(RunError, match="different columns: else, totalRoundtripTimeUs"):
        read_latencies([one, other])


@given(st.integers(1, 5), st.integers(1, 10), st.integers(1, 32), st.floats(1e-4, 0.1), st.integers(30, 60))
def test_a_full_queue_obeys_little_s_law(
    instances: int, set_size: int, batch: int, each: float, fillings: int
) -> None:
    # First in, first out; a new inference for each that is done.
    waiting = instances * set_size
    queue = deque([0.0] * waiting)
    latencies, now = [], 0.0
    for _ in range(fillings * waiting):
        submitted = queue.popleft()
        now += each
        latencies.append(now - submitted)
        queue.append(now)
    rate = len(latencies) * batch / now
    pictures = {"batch": batch, "instances": instances, "set_size": set_size}
    mean = float(np.mean(latencies))
    assert little_warning(rate, mean, **pictures) == ""
    for factor in (1.1 * LITTLE_FACTOR, 0.9 / LITTLE_FACTOR):
        text = little_warning(rate, mean * factor, **pictures)
        assert f"set size {set_size}" in text
        assert "Little's law" in text


# The device

QUERY = """LRT QC_IMAGE_VERSION: LRT.AIC.6.7.1.6.52
Number of devices: 2
QID 0
\tStatus:Ready
\tMHI ID:0
\tNsp Total:14
\tNsp Free:14
\tSoC temperature(degree C):41.50
\tBoard power(Watts):21.00
QID 3
        Status:Error
        Nsp Total:16
        Nsp Free:2
        NSP Frequency(Mhz):595
"""


def test_the_documented_query() -> None:
    assert parse_query(QUERY) == {
        0: DeviceState(0, "Ready", 14, 14, 41.5),
        3: DeviceState(3, "Error", 16, 2, None),
    }
    assert parse_query("Number of devices: 0\n") == {}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 99), st.integers(0, 16), st.integers(0, 16), st.none() | st.floats(-40, 150)
        ),
        max_size=4,
        unique_by=lambda device: device[0],
    )
)
def test_any_number_of_devices(devices: list[tuple[int, int, int, float | None]]) -> None:
    text, expected = "", {}
    for qid, total, free, degrees in devices:
        text += f"QID {qid}\n\tStatus:Ready\n\tNsp Total:{total}\n\tNsp Free:{free}\n"
        rounded = None if degrees is None else round(degrees, 2)
        text += "" if rounded is None else f"\tSoC temperature(degree C):{rounded:.2f}\n"
        expected[qid] = DeviceState(qid, "Ready", total, free, rounded)
    assert parse_query(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        QUERY.replace("\tStatus:Ready\n", ""),
        QUERY.replace("Nsp Total:14", "Nsp Total:many"),
        QUERY.replace("\tNsp Free:14\n", "\tNsp Free:14\n\tNsp Free:13\n"),
    ],
    ids=["missing", "text", "twice"],
)
def test_queries_of_another_form(text: str) -> None:
    with pytest.raises(RunError, match=r"of device 0 [02] times, not once"):
        parse_query(text)


FREE = DeviceState(0, "Ready", 14, 14, 41.5)


@pytest.mark.parametrize(
    ("state", "nsps", "measuring", "words"),
    [
        (FREE, 14, True, ""),
        (replace(FREE, nsp_free=7), 7, False, ""),
        (replace(FREE, nsp_free=7), 7, True, "7 of 14 NSPs are free"),
        (replace(FREE, nsp_free=6), 7, False, "6 of 14 NSPs are free"),
        (replace(FREE, temperature=65.5), 1, True, "65.5 degrees"),
        (replace(FREE, temperature=65.0), 1, True, ""),
        (replace(FREE, temperature=90.0), 1, False, ""),
        (replace(FREE, temperature=None), 1, True, ""),
    ],
    ids=["free", "enough", "not_alone", "busy", "hot", "limit", "hot_for_results", "unknown"],
)
def test_what_a_device_is_waited_for(state: DeviceState, nsps: int, measuring: bool, words: str) -> None:
    found = unready(state, nsps, measuring=measuring)
    assert words in found
    assert bool(found) == bool(words)


def test_what_waiting_does_not_help() -> None:
    with pytest.raises(RunError, match="status is Error") as caught:
        unready(replace(FREE, status="Error"), 1, measuring=False)
    assert "soc_reset" in caught.value.details
    with pytest.raises(RunError, match="15 NSPs are needed, but device 0 has 14"):
        unready(FREE, 15, measuring=False)


def test_waiting_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "POLL_SECONDS", 0.01)
    states = iter([replace(FREE, nsp_free=0), replace(FREE, temperature=70.0), FREE])
    assert wait_until_ready(lambda: next(states), 1, measuring=True, most_seconds=60) == FREE
    assert next(states, None) is None


@pytest.mark.parametrize("most", [0, 0.05])
def test_waiting_ends(monkeypatch: pytest.MonkeyPatch, most: float) -> None:
    monkeypatch.setattr(device, "POLL_SECONDS", 0.01)
    hot = replace(FREE, temperature=70.0)
    with pytest.raises(RunError, match=f"not free after {most:g} s: it has 70 degrees.*max-wait"):
        wait_until_ready(lambda: hot, 1, measuring=True, most_seconds=most)


@given(st.integers(1, 14), st.integers(1, 14), st.none() | st.integers(1, 16))
def test_too_many_nsps(cores: int, instances: int, total: int | None) -> None:
    most = 16 if total is None else total
    assert bool(too_many(cores, instances, total)) == (cores * instances > most)


# Agreement with float32


def test_outputs_that_agree() -> None:
    reference = np.array([[1.0, 5.0, 3.0, 2.0, 4.0, -8.0]], np.float32)
    same = compare(reference, reference)
    assert (same.largest_difference, same.relative, same.same_top1, same.same_top5) == (0, 0, 1, 1)
    assert check_agreement(same, 0.02) == ""
    near = compare(reference + np.float32(0.08), reference)
    assert near.relative == pytest.approx(0.01)
    assert check_agreement(near, 0.02) == ""


def test_a_change_of_order_inside_the_tolerance_is_said() -> None:
    reference = np.array([[1.0, 1.001, 0.5, 0.4, 0.3, 0.2, 0.199]], np.float32)
    output = np.array([[1.001, 1.0, 0.5, 0.4, 0.3, 0.2, 0.199]], np.float32)
    found = compare(output, reference)
    assert (found.same_top1, found.same_top5) == (0, 1)
    assert "same best class for 0 of 1 pictures and the same five for 1" in check_agreement(found, 0.02)


@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**32 - 1), st.floats(0.03, 2))
def test_outputs_that_differ_do_not_pass(pictures: int, classes: int, seed: int, share: float) -> None:
    reference = np.random.default_rng(seed).standard_normal((pictures, classes), np.float32)
    output = reference.copy()
    output[-1, -1] += share * np.abs(reference).max()
    found = compare(output, reference)
    assert found.relative == pytest.approx(share, rel=1e-4)
    with pytest.raises(RunError, match="is not float32's"):
        check_agreement(found, 0.02)
    check_agreement(found, share * 1.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite(value: float) -> None:
    good = np.zeros((1, 3), np.float32)
    bad = np.array([[0, value, 1]], np.float32)
    with pytest.raises(RunError, match="the device's output holds NaN or infinity"):
        compare(bad, good)
    with pytest.raises(RunError, match="ONNX Runtime's output"):
        compare(good, bad)


def test_an_output_of_zeros() -> None:
    zeros = np.zeros((1, 6), np.float32)
    assert check_agreement(compare(zeros, zeros), 0.02) == ""
    with pytest.raises(RunError, match="differs by inf"):
        check_agreement(compare(zeros + 1, zeros), 0.02)


# Settings of ONNX Runtime's provider


def test_the_settings_file(tmp_path: Path) -> None:
    chosen = configure("resnet50", {}, OURS)
    found = provider_settings(chosen, {"batch_size": 13}, 2, None)
    write_settings(tmp_path / "settings.yaml", found)
    assert (tmp_path / "settings.yaml").read_text(encoding="utf-8").splitlines() == [
        "device-id: 2",
        "set-size: 3",
        "aic-num-of-activations: 2",
        "aic-num-cores: 7",
        "batchsize: 13",
        "convert-to-fp16: True",
        "aic-hw: True",
        "ols: 2",
        "mos: 1",
        'onnx-define-symbol: "batch_size,13"',
        "multicast-weights: True",
    ]


def test_flags_that_the_provider_has_no_setting_for(tmp_path: Path) -> None:
    chosen = configure("resnet50", {"objective": "best-latency"}, OURS)
    with pytest.raises(RunError, match="no setting for the compiler's flag -use-producer-dma=1"):
        provider_settings(chosen, {}, 0, None)
    compiled = provider_settings(chosen, {}, 0, tmp_path)
    assert compiled["aic-binary-dir"] == str(tmp_path)
    assert "use-producer-dma" not in compiled
