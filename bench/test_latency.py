"""Is it still fast: one picture at a time."""

import pytest


@pytest.mark.latency
def test_latency(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
