"""Is it still fast: pictures in batches."""

import pytest


@pytest.mark.throughput
def test_throughput(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
