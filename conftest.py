"""The suite needs topfive installed: its plugin and its targets are found through entry points."""

import pytest

# The tests of the plugin run pytest inside pytest; only the top-level conftest may ask for that.
pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Say how to install topfive where its plugin is missing."""
    if not config.pluginmanager.hasplugin("topfive"):
        raise pytest.UsageError("topfive is not installed here: run `pip install -e .` first")
