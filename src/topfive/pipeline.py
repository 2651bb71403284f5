"""The stages and how they chain: fetch, optimize, calibrate, quantize, compile.

Each stage is a cache entry whose key holds the key of the stage before it, the options, the tool versions
that decide its result, and the hash of the code that makes it. A warm build reads no model at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import topfive.cards as cards_module
from topfive import targets
from topfive.cache import Cache, Entry, cache_root, content_key, file_sha256
from topfive.cards import Card, Plugins
from topfive.code_hashes import code_hash, folder_hash, package_modules
from topfive.errors import (
    CalibrateError,
    CompileError,
    FetchError,
    OptimizeError,
    QuantizeError,
    StageError,
    TopfiveError,
    UnknownNameError,
)
from topfive.targets.base import ARTIFACT_FILE, QUANT_MODES, Artifact, read_artifact

if TYPE_CHECKING:
    from topfive.quantize.calibration.method import Method
    from topfive.quantize.ranges import RangeTable
    from topfive.quantize.samples import Samples

__all__ = ["Pipeline", "build", "resolve_card"]

MODEL = "model.onnx"
RANGES = "ranges.json"
Progress = Callable[[str], None]
# Which modules' code decides a stage's result.
CODE = {
    "optimize": ("topfive.graph", "topfive.quantize.optimize"),
    "calibrate": (
        "topfive.graph",
        "topfive.quantize.calibration",
        "topfive.quantize.ranges",
        "topfive.quantize.samples",
    ),
    "compile": (
        "topfive.graph",
        "topfive.quantize.exactness",
        "topfive.quantize.rewriter",
        "topfive.targets.base",
    ),
}


def build(
    model: str | Path | Card,
    *,
    target: str,
    quant: str,
    cards: Sequence[Path] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
    options: Mapping[str, str] | None = None,
    remove_softmax: bool = False,
    select: str = "",
    calibration: str = "",
    recipe: str = "",
) -> Artifact:
    """Compile a model for a target, reusing whatever stages the cache holds.

    model: a card's name, a Card, or the path of an ONNX file. target: a name of `topfive.targets.names()`,
    or of a variant (see `topfive.targets`). quant: a quant mode. cards: directories of more cards. cache: its
    root (default: `cache_root`). progress: called with a line of text before each stage that has to run.
    options: the target's options by name (`Target.options`). remove_softmax: build without the softmax that
    the graph ends with. select: "argmax" or "topK": the artifact gives the best classes' indices, int64 [N]
    or [N, K], in place of scores. calibration: the method that chooses activation ranges, in place of the
    card's (and of its table). recipe: of the passes that find int8 parameters ("plain": none; by default
    those that are committed beside the table). Raises UnknownNameError, CardError, CacheError, OptionError,
    or the StageError of the stage that fails, naming the command that repeats it.
    """
    card = resolve_card(model, cards)
    if calibration and calibration != card.calibration.method:
        card = replace(card, calibration=replace(card.calibration, method=calibration, table=""))
    if remove_softmax:
        card = replace(card, output=replace(card.output, kind="logits", remove_softmax=True))
    store = Cache(cache_root(cache))
    return Pipeline(
        card, target, quant, store, progress, options or {}, select, recipe, calibration
    ).artifact()


def resolve_card(model: str | Path | Card, cards: Sequence[Path] = ()) -> Card:
    """The card that a name, an ONNX file or a card stands for."""
    if isinstance(model, Card):
        return model
    if isinstance(model, Path) or model.endswith(".onnx"):
        return cards_module.card_for_file(Path(model))
    return cards_module.find_card(model, cards_module.load_cards(cards))


@dataclass
class Pipeline:
    """The stages of one model, target and quant mode; every property is made at most once."""

    card: Card
    target_name: str
    quant: str
    cache: Cache
    progress: Progress | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    select: str = ""
    recipe: str = ""
    calibration: str = ""
    skip_bad: bool = False
    counted: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.quant not in QUANT_MODES:
            raise UnknownNameError("quant mode", self.quant, QUANT_MODES)
        self.target_name, chosen = targets.split_name(self.target_name)
        self.options = {**chosen, **self.options}
        self.target = targets.get(self.target_name).configured(self.options).for_model(self.card.name)
        reason = self.target.refuses(self.quant) or self._card_refuses()
        if reason:
            raise self.at(CompileError(reason))

    def _card_refuses(self) -> str:
        if self.card.quantised and self.quant != "as_is":
            return "the model is already quantised: only quant mode as_is applies"
        return ""

    def at(self, error: StageError) -> StageError:
        """Add to an error what was being built."""
        if not error.model:
            softmax = " --remove-softmax" if self.card.output.remove_softmax else ""
            error.flags = softmax + (f" --select {self.select}" if self.select else "")
            error.flags += f" --recipe {self.recipe}" if self.recipe else ""
            error.flags += f" --calibration {self.calibration}" if self.calibration else ""
        return error.located(self.card.name, self.target_name, self.quant, self.target.settings)

    def say(self, text: str) -> None:
        """Report progress."""
        if self.progress:
            self.progress(f"{self.card.name} {self.target_name} {self.quant}: {text}")

    def stage(self, error: type[StageError], fields: dict[str, Any], make: Callable[[Path], None]) -> Entry:
        """Run a stage through the cache, turning whatever a library raises into the stage's own error."""

        def made(folder: Path) -> None:
            self.say(error.stage)
            try:
                with self._custom_operators(error):
                    make(folder)
            except (TopfiveError, OSError, MemoryError):
                raise
            except Exception as cause:
                raise error(f"{type(cause).__name__} in a library", details=str(cause)) from cause

        try:
            return self.cache.entry(error.stage, fields, made)
        except StageError as failure:
            raise self.at(failure) from failure.__cause__

    def _custom_operators(self, error: type[StageError]) -> AbstractContextManager[None]:
        """The card's library of custom operators, loaded for the stages after the one that checks it."""
        if not self.card.plugins.onnxruntime or error in (FetchError, OptimizeError):
            return nullcontext()
        from topfive.sessions import custom_operators
        from topfive.sources.plugins import library

        return custom_operators(path for path in [library(self.card)] if path is not None)

    # fetch

    def source(self) -> Path:
        """The ONNX file that the card names."""
        from topfive import sources

        if self.card.source.kind == "light":
            return self._light().file(MODEL)
        try:
            return sources.resolve(self.card, self.cache.root / "downloads")
        except StageError as error:
            raise self.at(error) from error.__cause__

    def _light(self) -> Entry:
        import onnx

        from topfive.sources import light

        source = self.card.source
        fields = {
            "architecture": source.architecture,
            "seed": source.seed,
            "onnx": onnx.__version__,
            "recipe": folder_hash(Path(light.__file__).parent),
        }
        return self.stage(
            FetchError, fields, lambda out: light.write(source.architecture, source.seed, out / MODEL)
        )

    def source_key(self) -> str:
        """What identifies the source: a file's SHA-256, or the recipe of a generated model."""
        return self._light().key if self.card.source.kind == "light" else file_sha256(self.source())

    def identity(self) -> str:
        """SHA-256 of the model's file, or of the weights of a generated model: the same on every machine."""
        from topfive.sources import light

        source = self.card.source
        if source.kind == "light":
            return light.fingerprint(source.architecture, source.seed)
        return file_sha256(self.source())

    # optimize

    def optimized(self) -> Entry:
        """The float model in one opset with batch norm folded (quant mode as_is: the model as it is)."""
        import onnx

        from topfive.graph import save_model
        from topfive.quantize.optimize import optimize
        from topfive.quantize.output_head import Head, change_head
        from topfive.sources.checks import check_classifier

        as_is = self.quant == "as_is"
        head = Head(self.card.output.remove_softmax, self.select)

        def make(out: Path) -> None:
            model = check_classifier(self.source(), self.card, plugins=self.target.plugins)
            save_model(change_head(model if as_is else optimize(model), head), out / MODEL)

        fields = {
            "source": self.source_key(),
            "as_is": as_is,
            "input": list(self.card.input.size),
            "entries": self.card.output.entries,
            "onnx": onnx.__version__,
            "code": code_hash(CODE["optimize"]),
        }
        if self.card.output.name:
            fields["output"] = self.card.output.name
        if self.card.plugins != Plugins():
            fields["plugins"] = [asdict(self.card.plugins), self.target.plugins]
        if head:
            fields["head"] = [asdict(head), code_hash(("topfive.quantize.output_head",))]
        return self.stage(OptimizeError, fields, make)

    # calibrate

    def calibrated(self) -> tuple[str, Callable[[], Path]]:
        """(key, how to get the file) of the range table: the card's committed one, or one measured now."""
        table = self.card.calibration_table()
        if table is not None and table.is_file():
            self._check_table(table)
            return file_sha256(table), lambda: table
        entry = self.measured_ranges()
        return entry.key, lambda: entry.file(RANGES)

    def _check_table(self, table: Path) -> None:
        """A committed table must be of this very model and method: old ranges give quiet nonsense."""
        from topfive.quantize.ranges import read_ranges

        try:
            stored = read_ranges(table)
        except StageError as error:
            raise self.at(error) from None
        again = f"measure it again with `topfive calibrate {self.card.name}`"
        if stored.provenance.get("model") not in (None, self.identity()):
            raise self.at(CalibrateError(f"{table} was calibrated on another version of the model: {again}"))
        wanted = self.card.calibration
        same = stored.provenance.get("symmetric", False) == wanted.symmetric
        if wanted.method == "percentile":
            same = same and stored.provenance.get("percentile") == wanted.percentile
        if stored.method != wanted.method or not same:
            raise self.at(
                CalibrateError(
                    f"{table} was calibrated by {stored.method!r}, not as the card says "
                    f"({wanted.method!r}, its symmetric and percentile): {again}"
                )
            )

    def measured_ranges(self) -> Entry:
        """Ranges measured over the card's calibration pictures."""
        from topfive.quantize.ranges import write_ranges

        samples = self.calibration_samples()

        def make(out: Path) -> None:
            write_ranges(self.measure(samples), out / RANGES)

        return self.stage(CalibrateError, self.calibration_fields(samples), make)

    def calibration_fields(self, samples: Samples) -> dict[str, Any]:
        """All that decides the ranges over some samples."""
        import onnxruntime

        profile = asdict(samples.profile) if samples.profile else None
        return {
            "optimized": self.optimized().key,
            "model": self.identity(),
            "pictures": samples.digests,
            "profile": json.loads(json.dumps(profile, default=str)),
            "size": list(self.card.input.size),
            **self._method().fields(),
            **({"skip_bad": True} if self.skip_bad else {}),
            "onnxruntime": onnxruntime.__version__,
            "code": code_hash(CODE["calibrate"]),
        }

    def _method(self) -> Method:
        """How the card chooses ranges."""
        from topfive.quantize.calibration.method import Method

        chosen = self.card.calibration
        try:
            return Method(chosen.method, chosen.symmetric, chosen.percentile)
        except StageError as error:
            raise self.at(error) from None

    def _profile(self) -> Any:
        from topfive.images import load_profile

        return load_profile(self.card.input.profile)

    def calibration_samples(self) -> Samples:
        """The card's calibration pictures."""
        from topfive.images.calibration_set import calibration_pictures, drawn
        from topfive.quantize.samples import PictureSamples

        calibration = self.card.calibration
        folder = self.card.calibration_folder()
        listed = calibration_pictures(folder, self.card.calibration_map())
        chosen = listed[calibration.offset :: calibration.step]
        if calibration.seed is None:
            chosen = chosen[: calibration.count]
        elif chosen:
            chosen = drawn(chosen, calibration.count, calibration.seed)
        if not chosen:
            raise self.at(CalibrateError(f"no calibration pictures in {folder}"))
        return PictureSamples(tuple(chosen), self._profile(), self.card.input.size)

    def measure(self, samples: Samples) -> RangeTable:
        """The ranges of the optimised model's activations over samples, with where they come from.

        Killed, it goes on where it was: its state is kept under the cache's root until it is done.
        """
        import onnx

        from topfive.quantize.calibration import State, measure
        from topfive.quantize.ranges import RangeTable

        key = content_key(self.calibration_fields(samples))
        state = State(self.cache.root / "calibrations" / f"{key}.npz", key)
        model = onnx.load(self.optimized().file(MODEL))
        with self._custom_operators(CalibrateError):
            table = measure(
                model, samples, self._method(), skip_bad=self.skip_bad, state=state, progress=self.counted
            )
        state.remove()
        about: dict[str, Any] = {"model": self.identity(), **samples.provenance()}
        about |= {name: value for name, value in table.provenance.items() if name != "pictures"}
        about["pictures"] -= len(about.get("skipped", ()))
        return RangeTable(table.ranges, table.method, {**about, "list": samples.digests})

    # quantize

    def quantized(self) -> Entry:
        """The model in its quant mode, as the target's quantiser makes it, before the target has seen it."""
        import onnx

        from topfive.adjusting import adjustments
        from topfive.graph import save_model
        from topfive.quantize.adjustments import read_adjustments
        from topfive.quantize.ranges import read_ranges

        optimized = self.optimized()
        quantiser = self.target.quantiser(self.quant)
        if quantiser is None:
            return optimized
        found: dict[str, str] = {}
        arguments: list[Callable[[], Any]] = []
        adjusted = adjustments(self) if quantiser.adjusted else None
        if adjusted is not None:
            quantiser, (found["adjustments"], adjusted_file) = quantiser.for_adjustments(), adjusted
            arguments.append(lambda: read_adjustments(adjusted_file()))
        elif quantiser.calibrated:
            found["ranges"], table_file = self.calibrated()
            arguments.append(lambda: read_ranges(table_file()))
        quantise = quantiser
        fields = {"optimized": optimized.key, "quant": self.quant, "code": code_hash(quantise.modules)}

        def make(out: Path) -> None:
            model = onnx.load(optimized.file(MODEL))
            read = [argument() for argument in arguments]
            save_model(quantise.load()(model, *read, **quantise.settings), out / MODEL)

        return self.stage(QuantizeError, {**fields, **quantise.fields(), **found}, make)

    # compile

    def _output(self) -> dict[str, Any]:
        """What the artifact gives: "logits", "probabilities", or "classes" (indices), and how many."""
        from topfive.quantize.output_head import selected

        output = self.card.output
        if self.select:
            return {"kind": "classes", "entries": selected(self.select)}
        return {"kind": output.kind, "entries": output.entries}

    def _plugins(self, out: Path) -> dict[str, Any]:
        """Put the library of custom operators into an artifact, which then needs no other."""
        if not self.card.plugins.onnxruntime or self.target.plugins != "onnxruntime":
            return {}
        from topfive.sources.plugins import library

        path = library(self.card)
        if path is None:
            return {}
        shutil.copyfile(path, out / path.name)
        return {"plugins": [{"file": path.name, "sha256": self.card.plugins.sha256}]}

    def artifact(self) -> Artifact:
        """The compiled artifact."""
        import onnx

        from topfive.adjusting import described

        quantized = self.quantized()
        fields = {
            "quantized": quantized.key,
            "model": self.card.name,
            "target": self.target_name,
            "quant": self.quant,
            "versions": self.target.versions(),
            "code": code_hash((*CODE["compile"], *package_modules(self.target))),
        }
        building = self.target.build_settings
        chosen = {"options": building} if building else {}
        fields |= chosen
        target = self.target
        if target.calibrates(self.quant):
            samples = self.calibration_samples()
            target = target.for_samples(samples)
            fields["calibration"] = self.calibration_fields(samples)

        def make(out: Path) -> None:
            meta = target.compile(onnx.load(quantized.file(MODEL)), self.quant, out)
            meta |= {
                "source_sha256": file_sha256(self.source()),
                "output": self._output(),
                "profile": self.card.input.profile,
                "simulated": self.target.simulation(),
                **chosen,
                **self._plugins(out),
                **described(self, quantized),
            }
            stored = {"model": self.card.name, "target": self.target_name, "quant": self.quant, "meta": meta}
            # The directory's own name is the key; it is not known to itself while it is made.
            stored["key"] = hashlib.sha256(json.dumps([fields, meta], sort_keys=True).encode()).hexdigest()
            (out / ARTIFACT_FILE).write_text(json.dumps(stored, indent=1, sort_keys=True), encoding="utf-8")

        built = read_artifact(self.stage(CompileError, fields, make).path)
        if building == self.target.settings:
            return built
        # Options that only decide how it runs are not stored: they go with this artifact, as it is in memory.
        return replace(built, meta={**built.meta, "options": dict(self.target.settings)})
