"""The pytest plugin: options, markers, parametrisation, fixtures and the table at the end.

A test that has one of the markers golden, latency, throughput, accuracy or scenario and asks, itself or
through fixtures, for `model`, `target` and `quant` (and `batch`) runs once for each case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from topfive import targets
from topfive.datasets import find_dataset
from topfive.errors import TopfiveError
from topfive.golden import GoldenMismatchError, refuse_under_ci
from topfive.suite import exclusive, options
from topfive.suite.accuracy import ACCURACY, accuracy_asked
from topfive.suite.accuracy_end import AccuracyGatherer
from topfive.suite.asked import ON_REQUEST, kind_asked
from topfive.suite.comparing import Comparer
from topfive.suite.contention import Watch
from topfive.suite.expectations import STAGE_ERRORS
from topfive.suite.gathering import Gatherer
from topfive.suite.golden_check import GoldenCheck, described, modelled
from topfive.suite.measuring import device_lock, device_timing, extra_info, timing, warm_up
from topfive.suite.pictures import Pictures
from topfive.suite.recording import Recorder
from topfive.suite.scenarios import ScenarioCheck
from topfive.suite.selection import Case
from topfive.suite.state import FOUND, NAMES, SUITE, Suite, case_of, kind_of
from topfive.suite.tracing import trace_case
from topfive.suite.workshop import Workshop
from topfive.targets.base import Artifact, Runner

CPU_KERNELS = "TOPFIVE_CPU_KERNELS"
SHARD_FOUND = pytest.StashKey[dict[str, Any]]()
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
        accuracy = AccuracyGatherer(suite)
        config.pluginmanager.register(accuracy, "topfive-accuracy-gatherer")
        recorder = Recorder(suite, accuracy)
        config.pluginmanager.register(recorder, "topfive-recorder")
        if config.getoption("topfive_compare") is not None:
            config.pluginmanager.register(Comparer(suite, recorder), "topfive-comparer")
    # Raw rounds belong to every saved run.
    config.option.benchmark_save_data = True
    _set_variable(config, CPU_KERNELS, config.getoption("cpu_kernels"))


def _exclude_xdist(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) or config.getoption("tx", None):
        if conflict := exclusive.conflict_with_xdist(vars(config.option)):
            raise pytest.UsageError(conflict)
    elif "PYTEST_XDIST_WORKER" in os.environ and not hasattr(config, "workerinput"):
        # Inherited from a worker whose test started this run: pytest-benchmark would switch itself off.
        if conflict := exclusive.conflict_with_xdist(vars(config.option)):
            raise pytest.UsageError(
                f"{conflict}, and not inside a test of pytest-xdist (PYTEST_XDIST_WORKER)"
            )
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
    traces: Path | None = config.getoption("trace_dir")
    if traces is not None and traces.exists() and not traces.is_dir():
        raise pytest.UsageError(f"--trace-dir {traces}: is a file; name a folder")
    imagenet: str | None = config.getoption("imagenet")
    if imagenet is not None:
        try:
            find_dataset(imagenet)
        except TopfiveError as error:
            raise pytest.UsageError(f"--imagenet {imagenet}: no such folder: {error}") from error


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
    if kind == ACCURACY and "shard" in metafunc.fixturenames:
        metafunc.parametrize((*NAMES, "shard"), _shards(suite))
        return
    batched = "batch" in metafunc.fixturenames
    with _usage_errors():
        cases = suite.selection.cases(kind, batched=batched)
        measured = "benchmark" in metafunc.fixturenames
        params = [_parameters(suite, case, kind, measured=measured) for case in cases]
    metafunc.parametrize((*NAMES, "batch") if batched else NAMES, params)


def _shards(suite: Suite) -> list[Any]:
    """Every shard as pytest.param; without being asked for they are not collected at all."""
    if not accuracy_asked(suite.config):
        return []
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    with _usage_errors():
        return [
            pytest.param(
                item.case.model,
                item.case.target,
                item.case.quant,
                item.shard,
                id=item.id,
                marks=_marks(suite, item.case, ACCURACY),
            )
            for item in suite.accuracy.items(workers)
        ]


def _marks(suite: Suite, case: Case, kind: str) -> list[Any]:
    """The marks of a case: target, quant mode, tags, and that it is known to fail."""
    marks = [getattr(pytest.mark, targets.plain_name(case.target)), getattr(pytest.mark, case.quant)]
    tags = suite.selection.cards[case.model].tags
    marks += [getattr(pytest.mark, tag) for tag in ("realdata", "slow") if tag in tags]
    if expected := suite.selection.expected_failure(case, kind):
        reason = f"{expected.stage}: {expected.reason}"
        marks.append(pytest.mark.xfail(raises=STAGE_ERRORS[expected.stage], strict=True, reason=reason))
    return marks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out sweeps and LoadGen runs that nobody asked for."""
    left = {kind: name for kind, name in ON_REQUEST.items() if not kind_asked(config, kind)}
    unasked = [item for item in items if left.get(kind_of(item), "?") in _fixtures(item)]
    if unasked:
        config.hook.pytest_deselected(items=unasked)
        items[:] = [item for item in items if item not in unasked]


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def _parameters(suite: Suite, case: Case, kind: str, *, measured: bool) -> Any:
    """A case as pytest.param: plain values, since they are written to the benchmarks' JSON."""
    marks = _marks(suite, case, kind)
    if measured:
        limits = suite.measuring_limits(kind, case.target)
        marks.append(pytest.mark.benchmark(group=f"{case.model} {case.target}", **limits))
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace the case of a test that passes, once a session, if --trace-dir asks for it."""
    result = yield
    folder: Path | None = item.config.getoption("trace_dir")
    case = case_of(item) if folder is not None else None
    if folder is not None and case is not None:
        suite = item.config.stash[SUITE]
        trace_case(suite, case, folder, suite.repeat_command(item.nodeid, case))
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show our errors without a traceback, and hand what was found to whoever gathers it."""
    report = yield
    if report.failed and call.excinfo is not None and isinstance(call.excinfo.value, QUIET_ERRORS):
        report.longrepr = str(call.excinfo.value)
    if shard := item.stash.get(SHARD_FOUND, None):
        report.topfive_shard = shard  # type: ignore[attr-defined]
        del item.stash[SHARD_FOUND]
    case = case_of(item)
    if case is None or report.when == "teardown" or (report.when == "setup" and report.passed):
        return report
    report.topfive_case = {**vars(case), "kind": kind_of(item)}  # type: ignore[attr-defined]
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
    suite = request.config.stash[SUITE]
    yield suite.workshop
    suite.accuracy.close()
    suite.workshop.close()


@pytest.fixture(scope="session")
def imagenet(request: pytest.FixtureRequest) -> Path:
    """The folder of --imagenet; skips without it."""
    name: str | None = request.config.getoption("imagenet")
    if name is None:
        pytest.skip("needs --imagenet SET")
    return Path(find_dataset(name).root)


@pytest.fixture
def artifact(
    request: pytest.FixtureRequest, workshop: Workshop, model: str, target: str, quant: str
) -> Artifact:
    """The compiled model of the case."""
    return workshop.artifact(model, target, quant, kind_of(request.node))


@pytest.fixture
def runner(request: pytest.FixtureRequest, workshop: Workshop, model: str, target: str, quant: str) -> Runner:
    """The open model of the case; the workshop closes it."""
    return workshop.runner(model, target, quant, kind_of(request.node))


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
    card = suite.selection.cards[model]
    return GoldenCheck(card, suite.goldens, updating, repeat, record, suite.cache, target)


@pytest.fixture
def sweep_shard(
    request: pytest.FixtureRequest, workshop: Workshop, model: str, target: str, quant: str, shard: int
) -> Callable[[], None]:
    """A function that runs one shard of the case's sweep, or finds that it is done: sweep_shard()."""
    accuracy = request.config.stash[SUITE].accuracy

    def run() -> None:
        request.node.stash[SHARD_FOUND] = accuracy.run(Case(model, target, quant), shard)

    return run


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
            watch = Watch.start()
            benchmark(infer, data)
            others = watch.others()
            own = runner.device_figures() if benchmark.enabled else None
            # Its own batch size is not that of a row for another.
            own = own if own and own.batch == batch else None
        if benchmark.enabled:
            figures = device_timing(own) if own else timing(benchmark.stats.stats.data, batch)
            benchmark.extra_info.update(extra_info(runner, figures, batch, pictures.preprocess_seconds, own))
            if own and own.warnings:
                artifact = runner.artifact
                record(note=f"{artifact.model} {artifact.target} b{batch}: {'; '.join(own.warnings)}")
            shown = {**described(runner), **modelled(runner, batch)}
            shown |= {"device_figures": asdict(own)} if own else {}
            shown |= {} if others is None else {"others": round(others, 2)}
            record(**vars(figures), preprocess_s=pictures.preprocess_seconds, **shown)

    return measured


@pytest.fixture
def scenario(
    request: pytest.FixtureRequest,
    workshop: Workshop,
    record: Callable[..., None],
    tmp_path: Path,
    model: str,
    target: str,
) -> ScenarioCheck:
    """LoadGen runs of the case: scenario.check("performance-offline", quant)."""
    card = request.config.stash[SUITE].selection.cards[model]
    return ScenarioCheck(card, targets.get(target), workshop, tmp_path, record)
