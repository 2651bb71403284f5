"""MLPerf's scenarios with LoadGen itself: the eight command keys of a case. Run by `pytest -m scenario`."""

import pytest

KEYS = [
    f"{mode}-{scenario}"
    for mode in ("performance", "accuracy")
    for scenario in ("singlestream", "multistream", "server", "offline")
]


@pytest.mark.scenario
@pytest.mark.parametrize("key", KEYS)
def test_scenario(scenario, key, quant):
    scenario.check(key, quant)
