"""Recipes: which passes find the int8 parameters of a model, as TOML files.

A recipe has one section for each pass that is on; the keys of a section are the pass's settings. Passes run
in the order of `Recipe`'s fields: first those that rewrite the float model, then ranges, then those that
walk through the quantised model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from topfive.cards.schema import load_named, named_files, read_named
from topfive.errors import CardError
from topfive.quantize.calibration import METHODS

__all__ = [
    "AUTO",
    "PLAIN",
    "RECIPES_FOLDER",
    "AbsorbBias",
    "CorrectBias",
    "Equalize",
    "OutputRanges",
    "Ranges",
    "Recipe",
    "Round",
    "Silence",
    "WeightScales",
    "load_recipe",
    "recipes",
]

RECIPES_FOLDER = Path(__file__).resolve().parent.parent / "recipes"
AUTO, PLAIN = "auto", "plain"
CHOICES = {
    ("equalize", "objective"): ("noise", "ranges"),
    ("ranges", "method"): METHODS,
    ("round", "layers"): ("depthwise", "all"),
}
LIMITS = {
    ("equalize", "margin"): (1.05, 100),
    ("ranges", "percentile"): (50.001, 100),
    ("weight_scales", "smallest"): (0.05, 1),
    ("output_ranges", "smallest"): (0.05, 1),
    ("round", "samples"): (100, 10**6),
    ("correct_bias", "samples"): (100, 10**6),
}


@dataclass(frozen=True)
class Silence:
    """Channels that were never active on any calibration picture become zero."""


@dataclass(frozen=True)
class Equalize:
    """Cross-layer equalisation.

    objective: "noise" minimises the predicted quantisation noise, "ranges" makes the weight ranges of
    neighbouring layers alike (Nagel et al. 2019). margin: how much larger than on the calibration pictures a
    channel may become before the upper bound of a Clip would cut it.
    """

    objective: str = "noise"
    margin: float = 1.1


@dataclass(frozen=True)
class AbsorbBias:
    """What a ReLU always lets through on the calibration pictures moves into the next bias."""


@dataclass(frozen=True)
class Ranges:
    """Activation ranges by a calibration method, on the rewritten float model."""

    method: str = "minmax"
    percentile: float = 99.99


@dataclass(frozen=True)
class WeightScales:
    """Weight scales by the least squared error, each input channel weighted by its mean square."""

    smallest: float = 0.4


@dataclass(frozen=True)
class Round:
    """Rounding and input errors of a layer's weights are made up for by its other weights.

    layers: "depthwise" or "all". samples: output pixels that are looked at.
    """

    layers: str = "all"
    samples: int = 8000


@dataclass(frozen=True)
class CorrectBias:
    """Biases that make up for the mean error of each output channel.

    samples: output pixels that are looked at.
    """

    samples: int = 4000


@dataclass(frozen=True)
class OutputRanges:
    """The range of each convolution's output with which its activation comes out best.

    smallest: share of the measured range that is tried.
    """

    smallest: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """The passes that are on, with their settings; None: off. auto: whether `auto` tries it."""

    name: str
    description: str
    auto: bool = False
    silence: Silence | None = None
    equalize: Equalize | None = None
    absorb_bias: AbsorbBias | None = None
    ranges: Ranges | None = None
    weight_scales: WeightScales | None = None
    round: Round | None = None
    correct_bias: CorrectBias | None = None
    output_ranges: OutputRanges | None = None
    path: Path = field(default=Path(), metadata={"internal": True})

    @property
    def passes(self) -> dict[str, dict[str, Any]]:
        """The passes that are on, in running order, with their settings."""
        found = {}
        for name in ORDER:
            settings = getattr(self, name)
            if settings is not None:
                found[name] = asdict(settings)
        return found

    @property
    def walks(self) -> bool:
        """Whether a pass walks through the quantised model."""
        chosen = (self.weight_scales, self.round, self.correct_bias, self.output_ranges)
        return any(settings is not None for settings in chosen)


ORDER = (
    "silence",
    "equalize",
    "absorb_bias",
    "ranges",
    "weight_scales",
    "round",
    "correct_bias",
    "output_ranges",
)


def _read(path: Path) -> Recipe:
    recipe = read_named(Recipe, path)
    for (section, key), allowed in CHOICES.items():
        value = getattr(getattr(recipe, section), key, None)
        if value is not None and value not in allowed:
            raise CardError(
                f"{path}: key '{section}.{key}' must be one of {', '.join(allowed)}, not {value!r}"
            )
    for (section, key), (low, high) in LIMITS.items():
        value = getattr(getattr(recipe, section), key, None)
        if value is not None and not low <= value <= high:
            raise CardError(f"{path}: key '{section}.{key}' must be {low} to {high}, not {value}")
    if recipe.name == AUTO:
        raise CardError(f"{path}: a recipe cannot be called {AUTO!r}, which means: try the known ones")
    if (recipe.name == PLAIN) != (not recipe.passes):
        raise CardError(f"{path}: a recipe without passes is called {PLAIN!r}, and no other")
    return recipe


def load_recipe(name: str, extra_dirs: Sequence[Path] = ()) -> Recipe:
    """The recipe of that name, of topfive's own and those of other folders; or the one in a TOML file.

    Raises UnknownNameError with the nearest names, CardError for a malformed file.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    return load_named("recipe", name, named_files(RECIPES_FOLDER, extra_dirs), _read)


def recipes() -> list[Recipe]:
    """topfive's own recipes, from the fewest passes to the most, then by name."""
    found = [_read(path) for path in named_files(RECIPES_FOLDER)]
    return sorted(found, key=lambda recipe: (len(recipe.passes), recipe.name))
