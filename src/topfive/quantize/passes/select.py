"""Which mode and recipe suit a model best: each is fitted on one half of the calibration pictures and judged
on the other.

The judge is the signal-to-noise ratio of the scores, SQNR = 10 log10(sum f**2 / sum (f - q)**2) in dB, with f
the float model's output and q the quantised one's. It needs no labels. On the pictures of the fit it would
flatter recipes with many parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import CalibrateError
from topfive.graph import Graph
from topfive.quantize.adjusted import quantize_adjusted
from topfive.quantize.passes.batches import batches
from topfive.quantize.passes.fit import MODES, Fitter
from topfive.quantize.passes.recipe import Recipe
from topfive.quantize.passes.values import OpenInteger, Session
from topfive.sessions import open_session

__all__ = ["TOLERANCE_DB", "Candidate", "Selection", "select"]

TOLERANCE_DB = 0.5
"""A candidate must be better by more than this to be preferred to a simpler one."""
FEWEST = 4


@dataclass(frozen=True)
class Candidate:
    """One mode and recipe. sqnr_db and agreement (same best class, 0 to 1) are of the judged pictures."""

    mode: str
    recipe: str
    passes: int
    sqnr_db: float
    agreement: float
    seconds: float


@dataclass(frozen=True)
class Selection:
    """The chosen candidate, why, and all of them."""

    chosen: Candidate
    reason: str
    candidates: tuple[Candidate, ...]
    fitted: int
    judged: int

    def described(self) -> dict[str, Any]:
        """For JSON and provenance; without seconds, which differ from run to run."""
        rows = [
            {
                key: round(value, 4) if isinstance(value, float) else value
                for key, value in asdict(candidate).items()
                if key != "seconds"
            }
            for candidate in self.candidates
        ]
        return {
            "reason": self.reason,
            "fitted_on": self.fitted,
            "judged_on": self.judged,
            "candidates": rows,
        }


def select(
    model: onnx.ModelProto,
    pictures: NDArray[np.float32],
    modes: Sequence[str],
    recipes: Sequence[Recipe],
    *,
    open_integer: OpenInteger,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Try every recipe in every mode.

    model: optimised float ONNX. pictures: [N, C, H, W] float32, at least 4. modes: of MODES. progress:
    called with (candidates done, in all). Raises CalibrateError when there are too few pictures, or nothing
    to choose from.
    """
    if len(pictures) < FEWEST:
        raise CalibrateError(f"choosing a recipe needs {FEWEST} pictures or more, not {len(pictures)}")
    if not modes or not recipes:
        raise CalibrateError("there is no recipe, or no quant mode, to choose from")
    fitter = Fitter(model, pictures[::2], open_integer)
    judged = pictures[1::2]
    graph, name = Graph(model), Graph(model).input_names[0]
    wanted = _scores(open_session(model.SerializeToString()), name, batches(graph, judged))
    found: list[Candidate] = []
    for mode in modes:
        for recipe in recipes:
            if progress:
                progress(len(found), len(modes) * len(recipes))
            started = time.perf_counter()
            adjustments = fitter.fit(mode, recipe)
            seconds = time.perf_counter() - started
            int8 = quantize_adjusted(model, adjustments, depthwise=MODES[mode])
            scores = _scores(open_integer(int8), name, batches(graph, judged))
            found.append(_judge(mode, recipe, wanted, scores, seconds))
    chosen, reason = _choose(found)
    return Selection(chosen, reason, tuple(found), len(pictures[::2]), len(judged))


def _scores(session: Session, name: str, given: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.concatenate([session.run(None, {name: batch})[0] for batch in given]).astype(np.float64)


def _judge(
    mode: str, recipe: Recipe, wanted: NDArray[np.float64], scores: NDArray[np.float64], seconds: float
) -> Candidate:
    noise = float(np.square(wanted - scores).sum())
    ratio = np.inf if noise == 0 else 10 * np.log10(float(np.square(wanted).sum()) / noise)
    agreement = float((wanted.argmax(axis=1) == scores.argmax(axis=1)).mean())
    return Candidate(mode, recipe.name, len(recipe.passes), float(ratio), agreement, seconds)


def _choose(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The first, simplest candidate that is as good as the best, and a sentence."""
    best = max(candidates, key=lambda candidate: candidate.sqnr_db)
    order = {mode: place for place, mode in enumerate(MODES)}
    good = [c for c in candidates if c.sqnr_db >= best.sqnr_db - TOLERANCE_DB]
    chosen = min(good, key=lambda c: (order[c.mode], c.passes))
    reason = f"{chosen.mode} with recipe {chosen.recipe}: SQNR of the scores {chosen.sqnr_db:.2f} dB"
    if chosen is not best:
        reason += (
            f", within {TOLERANCE_DB} dB of {best.mode} with {best.recipe} ({best.sqnr_db:.2f} dB), "
            "which is less simple"
        )
    plain = next((c for c in candidates if c.mode == chosen.mode and not c.passes), None)
    if plain is not None and plain is not chosen:
        reason += f"; plain {plain.mode} has {plain.sqnr_db:.2f} dB"
    return chosen, reason
