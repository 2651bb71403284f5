"""The pytest plugin: options, markers, parametrisation, fixtures and the table at the end.

A test that has one of the markers golden, latency, throughput, accuracy or scenario and asks, itself or
through fixtures, for `model`, `target` and `quant` (and `batch`) runs once for each case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from topfive import targets
from topfive.errors import TopfiveError
from topfive.golden import GoldenMismatchError, refuse_under_ci
from topfive.suite import exclusive, options
from topfive.suite.expectations import STAGE_ERRORS
from topfive.suite.gathering import Gatherer
from topfive.suite.golden_check import GoldenCheck, described, modelled
from topfive.suite.measuring import device_lock, extra_info, timing, warm_up
from topfive.suite.pictures import Pictures
from topfive.suite.selection import Case
from topfive.suite.state import FOUND, NAMES, SUITE, Suite, case_of, kind_of
from topfive.suite.workshop import Workshop
from topfive.targets.base import Artifact, Runner

CPU_KERNELS = "TOPFIVE_CPU_KERNELS"
QUIET_ERRORS = (TopfiveError, GoldenMismatchError)


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except TopfiveError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register markers and refuse options that contradict each other, before pytest-benchmark sees them."""
    for line in options.marker_lines():
        config.addinivalue_line("markers", line)
    if not hasattr(config, "workerinput"):
        _exclude_xdist(config)
        _check_options(config)
    suite = config.stash[SUITE] = Suite(config)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Gatherer(suite), "topfive-gatherer")
    # Raw rounds belong to every saved run.
    config.option.benchmark_save_data = True
    _set_variable(config, CPU_KERNELS, config.getoption("cpu_kernels"))


def _exclude_xdist(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) or config.getoption("tx", None):
        if conflict := exclusive.conflict_with_xdist(vars(config.option)):
            raise pytest.UsageError(conflict)
    elif config.getoption("dist", "no") != "no":
        # --dist without -n runs nothing in parallel, but pytest-benchmark would switch itself off.
        config.option.dist = "no"


def _check_options(config: pytest.Config) -> None:
    with _usage_errors():
        if config.getoption("update_golden"):
            refuse_under_ci()
    csv: Path | None = config.getoption("topfive_csv")
    if csv is not None and (csv.is_dir() or not csv.resolve().parent.is_dir()):
        raise pytest.UsageError(f"--topfive-csv {csv}: must be a file in a folder that exists")
    imagenet: Path | None = config.getoption("imagenet")
    if imagenet is not None and not imagenet.is_dir():
        raise pytest.UsageError(f"--imagenet {imagenet}: no such folder")


def _set_variable(config: pytest.Config, name: str, value: str | None) -> None:
    """Set an environment variable for this session and its workers."""
    if value is None:
        return
    before = os.environ.get(name)
    os.environ[name] = value

    def restore() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    config.add_cleanup(restore)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse unknown names before anything is collected."""
    suite = session.config.stash[SUITE]
    if suite.wanted:
        with _usage_errors():
            suite.selection.validate()


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line: targets and cache."""
    suite = config.stash[SUITE]
    return f"topfive: targets {', '.join(targets.names())}; cache {suite.cache}" if suite.wanted else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise tests of a kind that ask for a case."""
    kind = kind_of(metafunc.definition)
    if not kind or not all(name in metafunc.fixturenames for name in NAMES):
        return
    suite = metafunc.config.stash[SUITE]
    batched = "batch" in metafunc.fixturenames
    with _usage_errors():
        cases = suite.selection.cases(kind, batched=batched)
        measured = "benchmark" in metafunc.fixturenames
        params = [_parameters(suite, case, kind, measured=measured) for case in cases]
    metafunc.parametrize((*NAMES, "batch") if batched else NAMES, params)


def _parameters(suite: Suite, case: Case, kind: str, *, measured: bool) -> Any:
    """A case as pytest.param: plain values, since they are written to the benchmarks' JSON."""
    marks = [getattr(pytest.mark, case.target), getattr(pytest.mark, case.quant)]
    tags = suite.selection.cards[case.model].tags
    marks += [getattr(pytest.mark, tag) for tag in ("realdata", "slow") if tag in tags]
    if measured:
        limits = suite.measuring_limits(kind, case.target)
        marks.append(pytest.mark.benchmark(group=f"{case.model} {case.target}", **limits))
    if expected := suite.selection.expected_failure(case, kind):
        reason = f"{expected.stage}: {expected.reason}"
        marks.append(pytest.mark.xfail(raises=STAGE_ERRORS[expected.stage], strict=True, reason=reason))
    values = (case.model, case.target, case.quant, *([] if case.batch is None else [case.batch]))
    return pytest.param(*values, id=case.id, marks=marks)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, with the reason."""
    case = case_of(item)
    if case is None:
        return
    suite = item.config.stash[SUITE]
    if hasattr(item.config, "workerinput") and kind_of(item) in exclusive.MEASURED_KINDS:
        pytest.skip(exclusive.NEVER_PARALLEL)
    if reason := suite.selection.cards[case.model].missing_reason():
        pytest.skip(f"{case.model}: {reason}")
    if reason := targets.get(case.target).probe():
        pytest.skip(f"{case.target}: {reason}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show our errors without a traceback, and hand what was found to whoever gathers it."""
    report = yield
    if report.failed and call.excinfo is not None and isinstance(call.excinfo.value, QUIET_ERRORS):
        report.longrepr = str(call.excinfo.value)
    case = case_of(item)
    if case is None or report.when == "teardown" or (report.when == "setup" and report.passed):
        return report
    found: dict[str, Any] = item.stash.get(FOUND, {})
    values = dict(found)
    if kind_of(item) == "golden" and "golden" not in values and not (report.skipped and not _xfailed(report)):
        values["golden"] = "xfail" if _xfailed(report) else "error"
    if values:
        # Attributes of a report travel from xdist's workers as they are.
        report.topfive = {**vars(case), "kind": kind_of(item), "values": values}  # type: ignore[attr-defined]
    return report


def _xfailed(report: pytest.TestReport) -> bool:
    return report.skipped and hasattr(report, "wasxfail")


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """What builds and opens models: each artifact, runner and picture set once a session."""
    made = request.config.stash[SUITE].workshop
    yield made
    made.close()


@pytest.fixture(scope="session")
def imagenet(request: pytest.FixtureRequest) -> Path:
    """The folder of --imagenet; skips without it."""
    folder: Path | None = request.config.getoption("imagenet")
    if folder is None:
        pytest.skip("needs --imagenet DIR")
    return folder


@pytest.fixture
def artifact(workshop: Workshop, model: str, target: str, quant: str) -> Artifact:
    """The compiled model of the case."""
    return workshop.artifact(model, target, quant)


@pytest.fixture
def runner(workshop: Workshop, model: str, target: str, quant: str) -> Runner:
    """The open model of the case; the workshop closes it."""
    return workshop.runner(model, target, quant)


@pytest.fixture
def pictures(request: pytest.FixtureRequest, workshop: Workshop, model: str, target: str) -> Pictures:
    """The fixture pictures of the case's model; the first few of them on an emulated target."""
    return workshop.pictures(model, request.config.stash[SUITE].most_pictures(target))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that puts values of this case into the table at the end: record(top1=0.9)."""
    found: dict[str, Any] = request.node.stash.setdefault(FOUND, {})
    return found.update


@pytest.fixture
def golden(
    request: pytest.FixtureRequest, record: Callable[..., None], model: str, target: str, quant: str
) -> GoldenCheck:
    """The golden of the case: golden.check(runner, pictures)."""
    suite = request.config.stash[SUITE]
    repeat = suite.repeat_command(request.node.nodeid, Case(model, target, quant))
    updating = bool(request.config.getoption("update_golden"))
    return GoldenCheck(suite.selection.cards[model], suite.goldens, updating, repeat, record)


@pytest.fixture
def measure(
    request: pytest.FixtureRequest, benchmark: Any, record: Callable[..., None]
) -> Callable[[Runner, Pictures, int], None]:
    """A function that measures a runner on a batch, alone on its device: measure(runner, pictures, batch)."""
    cache = request.config.stash[SUITE].cache

    def measured(runner: Runner, pictures: Pictures, batch: int) -> None:
        fixed = runner.artifact.meta["input"]["shape"][0]
        if isinstance(fixed, int) and fixed != batch:
            pytest.skip(f"the batch size of {runner.artifact.model} is fixed at {fixed}")
        data, infer = pictures.batch(batch), runner.callable()
        with device_lock(cache, targets.get(runner.artifact.target)):
            warm_up(runner, data)
            benchmark(infer, data)
        if benchmark.enabled:
            figures = timing(benchmark.stats.stats.data, batch)
            benchmark.extra_info.update(extra_info(runner, figures, batch, pictures.preprocess_seconds))
            shown = {**described(runner), **modelled(runner, batch)}
            record(**vars(figures), preprocess_s=pictures.preprocess_seconds, **shown)

    return measured
