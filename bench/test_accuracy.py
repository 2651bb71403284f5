"""Is it still accurate: top-1 and top-5 over a picture set, a test a shard; merged when all are done."""

import pytest


@pytest.mark.accuracy
def test_accuracy(sweep_shard):
    sweep_shard()
