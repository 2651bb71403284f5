"""topfive: benchmarks and regression tests of image classifiers on accelerators.

    artifact = topfive.build("pocket_resnet", target="gemmini_sim", quant="int8")
    with topfive.open(artifact) as runner:
        logits = runner.run(batch)
    topfive.top5(logits[0], labels)

Importing this package is cheap; onnx and onnxruntime load when something is built or run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topfive.cards import Card
    from topfive.targets.base import Artifact, Runner

__version__ = "0.1.0"
__all__ = ["__version__", "build", "open", "top5"]


def build(
    model: str | Path | Card,
    *,
    target: str,
    quant: str,
    cards: Sequence[Path] = (),
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
    options: Mapping[str, str] | None = None,
    remove_softmax: bool = False,
    select: str = "",
    calibration: str = "",
    recipe: str = "",
) -> Artifact:
    """Compile a model for a target; see `topfive.pipeline.build`."""
    from topfive.pipeline import build as build_artifact

    return build_artifact(
        model,
        target=target,
        quant=quant,
        cards=cards,
        cache=cache,
        progress=progress,
        options=options,
        remove_softmax=remove_softmax,
        select=select,
        calibration=calibration,
        recipe=recipe,
    )


def open(artifact: Artifact | str | Path, *, threads: int | None = None) -> Runner:
    """Open an artifact, or the directory of one, for running.

    threads: for the target's own use (default: TOPFIVE_THREADS, else all processors of this process).
    Raises RunError when the directory holds no artifact, UnknownNameError when its target is not installed.
    """
    from topfive import targets
    from topfive.targets.base import read_artifact

    opened = read_artifact(Path(artifact)) if isinstance(artifact, str | Path) else artifact
    return targets.get(opened.target).configured(opened.options).open(opened, threads=threads)


def top5(scores: Any, labels: Sequence[str] = ()) -> list[tuple[int, str, float]]:
    """The five best classes of one output vector, best first; equal scores in order of index.

    scores: [classes] (or [1, classes]) numbers. labels: a name a class, or none. Returns (index, label,
    score); fewer than five if there are fewer classes. Raises ValueError for another shape or NaN.
    """
    from topfive.ranking import rank

    return rank(scores, labels, 5)
