"""What all tests share: hypothesis profiles and the skip of tests that need real data."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from topfive.cards import expand
from topfive.errors import CardError

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("realdata") is None:
        return
    try:
        folder = expand("$TOPFIVE_DATA", item.config.rootpath)
    except CardError as error:
        pytest.skip(error.message)
    if not folder.is_dir():
        pytest.skip(f"TOPFIVE_DATA={folder}: no such folder")
