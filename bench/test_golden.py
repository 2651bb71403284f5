"""Is it still right: the top-5 of every fixture picture against the committed goldens."""

import pytest


@pytest.mark.golden
def test_golden(golden, runner, pictures):
    golden.check(runner, pictures)
