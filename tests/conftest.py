"""What all tests share: hypothesis profiles and the skip of tests that need real data."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from topfive.cards import expand
from topfive.errors import CardError

HAS_HYPOTHESIS = find_spec("hypothesis") is not None

if HAS_HYPOTHESIS:
    from hypothesis import settings

    settings.register_profile("default", deadline=None)
    settings.register_profile("ci", deadline=None, derandomize=True)
    settings.load_profile("ci" if os.environ.get("CI") else "default")
else:
    # After a plain `pip install -e .`, a bare `pytest -m gemmini_sim` runs the benchmarks alone.
    collect_ignore_glob = ["*.py"]


def pytest_report_header() -> str | None:
    if HAS_HYPOTHESIS:
        return None
    return "topfive's own tests are left out: hypothesis is not installed (pip install -e '.[test]')"


@pytest.fixture(autouse=True, scope="session")
def _records_elsewhere(tmp_path_factory):
    """What the tests run leaves its records outside the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPFIVE_RECORDS", str(tmp_path_factory.mktemp("records")))
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("realdata") is None:
        return
    try:
        folder = expand("$TOPFIVE_DATA", item.config.rootpath)
    except CardError as error:
        pytest.skip(error.message)
    if not folder.is_dir():
        pytest.skip(f"TOPFIVE_DATA={folder}: no such folder")
