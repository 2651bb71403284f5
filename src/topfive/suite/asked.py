"""Kinds of test that take their time and run only when they are asked for by name."""

from __future__ import annotations

import pytest

from topfive.suite.exclusive import named_markers

__all__ = ["ON_REQUEST", "kind_asked"]

ON_REQUEST = {"accuracy": "shard", "scenario": "scenario"}
"""Kind -> the fixture by which its tests are known."""


def kind_asked(config: pytest.Config, kind: str) -> bool:
    """Whether this session is to run a kind: -m names it, --imagenet for accuracy, or a file or id does.

    `pytest -m gemmini_sim` alone starts neither sweeps nor LoadGen.
    """
    if kind == "accuracy" and config.getoption("imagenet") is not None:
        return True
    if named_markers(str(config.getoption("markexpr", "") or ""), (kind,)):
        return True
    return any(kind in str(argument) for argument in config.invocation_params.args if argument[:1] != "-")
