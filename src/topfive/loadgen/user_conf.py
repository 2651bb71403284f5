"""MLPerf's user.conf, read strictly: LoadGen ignores keys with typos and other people's scenarios alike."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from topfive.loadgen.plan import SCENARIOS, ScenarioError

__all__ = ["read_user_conf"]

_LINE = re.compile(r"(?P<model>[^.\s]+)\.(?P<scenario>[^.\s]+)\.(?P<key>\S+)\s*=\s*(?P<value>\S+)$")
MILLION = 1e6

# key -> field of TestSettings by scenario ("*": any), and what the value is multiplied by (loadgen's
# test_settings_internal.cc).
KEYS: dict[str, dict[str, tuple[str, float]]] = {
    "min_duration": {"*": ("min_duration_ms", 1)},
    "max_duration": {"*": ("max_duration_ms", 1)},
    "min_query_count": {"*": ("min_query_count", 1)},
    "max_query_count": {"*": ("max_query_count", 1)},
    "qsl_rng_seed": {"*": ("qsl_rng_seed", 1)},
    "sample_index_rng_seed": {"*": ("sample_index_rng_seed", 1)},
    "schedule_rng_seed": {"*": ("schedule_rng_seed", 1)},
    "accuracy_log_rng_seed": {"*": ("accuracy_log_rng_seed", 1)},
    "accuracy_log_probability": {"*": ("accuracy_log_probability", 0.01)},
    "accuracy_log_sampling_target": {"*": ("accuracy_log_sampling_target", 1)},
    "print_timestamps": {"*": ("print_timestamps", 1)},
    "performance_issue_unique": {"*": ("performance_issue_unique", 1)},
    "performance_issue_same": {"*": ("performance_issue_same", 1)},
    "performance_issue_same_index": {"*": ("performance_issue_same_index", 1)},
    "performance_sample_count_override": {"*": ("performance_sample_count_override", 1)},
    "sample_concatenate_permutation": {"*": ("sample_concatenate_permutation", 1)},
    "target_latency_percentile": {
        "SingleStream": ("single_stream_target_latency_percentile", 0.01),
        "MultiStream": ("multi_stream_target_latency_percentile", 0.01),
        "Server": ("server_target_latency_percentile", 0.01),
    },
    "target_latency": {
        "SingleStream": ("single_stream_expected_latency_ns", MILLION),
        "MultiStream": ("multi_stream_expected_latency_ns", MILLION),
        "Server": ("server_target_latency_ns", MILLION),
    },
    "target_qps": {"Server": ("server_target_qps", 1), "Offline": ("offline_expected_qps", 1)},
    "samples_per_query": {"MultiStream": ("multi_stream_samples_per_query", 1)},
    "max_async_queries": {"Server": ("server_max_async_queries", 1)},
    "coalesce_queries": {"Server": ("server_coalesce_queries", 1)},
}


FRACTIONS = {"target_latency", "target_qps", "target_latency_percentile", "accuracy_log_probability"}
"""Keys whose value may be a fraction; LoadGen reads the others as whole numbers and cuts the rest off."""
Line = tuple[str, str, str, float]


def read_user_conf(path: Path, model: str, scenario: str) -> dict[str, float]:
    """Fields of TestSettings that a user.conf sets for this model and scenario.

    Of several lines that apply, the most specific wins: model and scenario, then scenario, then model, then
    neither, as in LoadGen. Raises ScenarioError naming the line for whatever LoadGen would pass over: a line
    of another form, an unknown key or scenario, a value that the key cannot have, the same line twice; and
    for a conf that has lines for other models only.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path} cannot be read: {error}") from error
    found: dict[str, tuple[int, float]] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for number, text in enumerate(lines, 1):
        line = text.split("#", 1)[0].strip()
        if not line:
            continue
        named, of, key, value = _parsed(line, f"{path}:{number}")
        if (named, of, key) in seen:
            raise ScenarioError(f"{path}:{number}: {named}.{of}.{key} is in line {seen[named, of, key]}, too")
        seen[named, of, key] = number
        if named not in ("*", model) or of not in ("*", scenario):
            continue
        places = KEYS[key]
        place = places.get("*") or places.get(scenario)
        if place is None:
            continue
        rank = 2 * (of != "*") + (named != "*")
        if rank >= found.get(place[0], (-1, 0.0))[0]:
            found[place[0]] = (rank, value * place[1])
    models = {named for named, _, _ in seen}
    if models and not models & {"*", model}:
        raise ScenarioError(f"{path} has lines for {', '.join(sorted(models))} only, none for {model} or *")
    return {field: value for field, (_, value) in found.items()}


def _parsed(line: str, where: str) -> Line:
    match = _LINE.match(line)
    if match is None:
        raise ScenarioError(f"{where}: {line!r} is not of the form MODEL.SCENARIO.KEY = VALUE")
    if match["scenario"] not in ("*", *SCENARIOS):
        raise ScenarioError(f"{where}: unknown scenario {match['scenario']!r}{_hint(match['scenario'])}")
    key = match["key"]
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
        raise ScenarioError(
            f"{where}: unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else "")
        )
    places = KEYS[key]
    if match["scenario"] not in ("*", *places) and "*" not in places:
        raise ScenarioError(f"{where}: {key} does not apply to {match['scenario']}")
    return match["model"], match["scenario"], key, _number(key, match["value"], where)


def _number(key: str, text: str, where: str) -> float:
    """The value of a key: finite, not negative, whole unless it is one of FRACTIONS.

    Whole numbers stay int: MLPerf's seeds have more digits than a float.
    """
    try:
        value = int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise ScenarioError(f"{where}: {text!r} is not a number") from None
    if not 0 <= value < 2**64 or not (key in FRACTIONS or value == int(value)):
        kind = "a number" if key in FRACTIONS else "a whole number"
        raise ScenarioError(f"{where}: {key} must be {kind} that is not negative, not {text}")
    return value


def _hint(text: str) -> str:
    near = difflib.get_close_matches(text, SCENARIOS, n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else f" (they are {', '.join(SCENARIOS)})"
