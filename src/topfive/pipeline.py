"""The stages and how they chain: fetch, optimize, calibrate, quantize, compile.

Each stage is a cache entry whose key holds the key of the stage before it, the options, the tool versions
that decide its result, and the hash of the code that makes it. A warm build reads no model at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache as memoised
from pathlib import Path
from typing import Any

import topfive.cards as cards_module
from topfive import targets
from topfive.cache import Cache, Entry, cache_root, file_sha256
from topfive.cards import Card
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
from topfive.targets.base import ARTIFACT_FILE, QUANT_MODES, Artifact, Target, read_artifact

__all__ = ["Pipeline", "build", "resolve_card"]

MODEL = "model.onnx"
RANGES = "ranges.json"
CALIBRATION_BATCH = 8
Progress = Callable[[str], None]
# Which modules' code decides a stage's result.
CODE = {
    "optimize": ("topfive.graph", "topfive.quantize.optimize"),
    "calibrate": ("topfive.graph", "topfive.quantize.calibration", "topfive.quantize.ranges"),
    "quantize": ("topfive.graph", "topfive.quantize.symmetric", "topfive.quantize.float16"),
    "compile": (
        "topfive.graph",
        "topfive.quantize.exactness",
        "topfive.quantize.symmetric",
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
) -> Artifact:
    """Compile a model for a target, reusing whatever stages the cache holds.

    model: a card's name, a Card, or the path of an ONNX file. target: a name of `topfive.targets.names()`.
    quant: a quant mode. cards: directories of more cards. cache: its root (default: `cache_root`). progress:
    called with a line of text before each stage that has to run. Raises UnknownNameError, CardError,
    CacheError, or the StageError of the stage that fails, naming the command that repeats it.
    """
    card = resolve_card(model, cards)
    return Pipeline(card, target, quant, Cache(cache_root(cache)), progress).artifact()


def resolve_card(model: str | Path | Card, cards: Sequence[Path] = ()) -> Card:
    """The card that a name, an ONNX file or a card stands for."""
    if isinstance(model, Card):
        return model
    if isinstance(model, Path) or model.endswith(".onnx"):
        return cards_module.card_for_file(Path(model))
    return cards_module.find_card(model, cards_module.load_cards(cards))


@memoised
def _code_hash(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


@memoised
def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".py", ".json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _package_modules(target: Target) -> tuple[str, ...]:
    """All modules of a target's own package, so that a change in any of them makes new artifacts."""
    spec = importlib.util.find_spec(type(target).__module__)
    if spec is None or spec.origin is None:
        return ()
    package = type(target).__module__.rpartition(".")[0]
    siblings = sorted(Path(spec.origin).parent.glob("*.py")) if package not in ("", "topfive.targets") else []
    return (type(target).__module__, *(f"{package}.{p.stem}" for p in siblings if p.stem != "__init__"))


@dataclass
class Pipeline:
    """The stages of one model, target and quant mode; every property is made at most once."""

    card: Card
    target_name: str
    quant: str
    cache: Cache
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.quant not in QUANT_MODES:
            raise UnknownNameError("quant mode", self.quant, QUANT_MODES)
        self.target = targets.get(self.target_name)
        reason = self.target.refuses(self.quant) or self._card_refuses()
        if reason:
            raise self._at(CompileError(reason))

    def _card_refuses(self) -> str:
        if self.card.quantised and self.quant != "as_is":
            return "the model is already quantised: only quant mode as_is applies"
        return ""

    def _at(self, error: StageError) -> StageError:
        return error.located(self.card.name, self.target_name, self.quant)

    def _say(self, text: str) -> None:
        if self.progress:
            self.progress(f"{self.card.name} {self.target_name} {self.quant}: {text}")

    def _stage(self, error: type[StageError], fields: dict[str, Any], make: Callable[[Path], None]) -> Entry:
        """Run a stage through the cache, turning whatever a library raises into the stage's own error."""

        def made(folder: Path) -> None:
            self._say(error.stage)
            try:
                make(folder)
            except (TopfiveError, OSError, MemoryError):
                raise
            except Exception as cause:
                raise error(f"{type(cause).__name__} in a library", details=str(cause)) from cause

        try:
            return self.cache.entry(error.stage, fields, made)
        except StageError as failure:
            raise self._at(failure) from failure.__cause__

    # fetch

    def source(self) -> Path:
        """The ONNX file that the card names."""
        from topfive import sources

        if self.card.source.kind == "light":
            return self._light().file(MODEL)
        try:
            return sources.resolve(self.card, self.cache.root / "downloads")
        except StageError as error:
            raise self._at(error) from error.__cause__

    def _light(self) -> Entry:
        import onnx

        from topfive.sources import light

        source = self.card.source
        fields = {
            "architecture": source.architecture,
            "seed": source.seed,
            "onnx": onnx.__version__,
            "recipe": _folder_hash(Path(light.__file__).parent),
        }
        return self._stage(
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
        from topfive.sources.checks import check_classifier

        as_is = self.quant == "as_is"

        def make(out: Path) -> None:
            model = check_classifier(self.source(), self.card)
            save_model(model if as_is else optimize(model), out / MODEL)

        fields = {
            "source": self.source_key(),
            "as_is": as_is,
            "input": list(self.card.input.size),
            "entries": self.card.output.entries,
            "onnx": onnx.__version__,
            "code": _code_hash(CODE["optimize"]),
        }
        return self._stage(OptimizeError, fields, make)

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
        """A committed table must be of this very model: old ranges on new weights give quiet nonsense."""
        from topfive.quantize.ranges import read_ranges

        try:
            stored = read_ranges(table).provenance.get("model")
        except StageError as error:
            raise self._at(error) from None
        if stored is not None and stored != self.identity():
            raise self._at(
                CalibrateError(
                    f"{table} was calibrated on another version of the model: "
                    f"measure it again with `topfive calibrate {self.card.name}`"
                )
            )

    def measured_ranges(self) -> Entry:
        """Ranges measured over the card's calibration pictures."""
        import onnxruntime

        optimized = self.optimized()
        pictures = self._calibration_pictures()
        digests = [(path.name, file_sha256(path)) for path in pictures]
        profile = self._profile()

        def make(out: Path) -> None:
            self._measure(optimized.file(MODEL), pictures, digests, out / RANGES)

        fields = {
            "optimized": optimized.key,
            "model": self.identity(),
            "pictures": digests,
            "profile": json.loads(json.dumps(asdict(profile), default=str)),
            "size": list(self.card.input.size),
            "method": "minmax",
            "onnxruntime": onnxruntime.__version__,
            "code": _code_hash(CODE["calibrate"]),
        }
        return self._stage(CalibrateError, fields, make)

    def _profile(self) -> Any:
        from topfive.images import load_profile

        return load_profile(self.card.input.profile)

    def _calibration_pictures(self) -> list[Path]:
        from topfive.images.folders import list_images

        calibration = self.card.calibration
        listed = sorted(image.path for image in list_images(self.card.calibration_folder()))
        chosen = listed[calibration.offset :: calibration.step][: calibration.count]
        if not chosen:
            raise self._at(CalibrateError(f"no calibration pictures in {self.card.calibration_folder()}"))
        return chosen

    def _measure(
        self, model_file: Path, pictures: list[Path], digests: list[tuple[str, str]], out: Path
    ) -> None:
        import onnx

        from topfive.images import preprocess_batch
        from topfive.quantize.calibration import minmax
        from topfive.quantize.ranges import RangeTable, write_ranges

        profile, size = self._profile(), self.card.input.size
        batches = (
            preprocess_batch(pictures[i : i + CALIBRATION_BATCH], profile, size)
            for i in range(0, len(pictures), CALIBRATION_BATCH)
        )
        table = minmax(onnx.load(model_file), batches)
        provenance = {
            "model": self.identity(),
            "pictures": len(pictures),
            "pictures_sha256": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
            "profile": self.card.input.profile,
        }
        write_ranges(RangeTable(table.ranges, table.method, provenance), out)

    # quantize

    def quantized(self) -> Entry:
        """The model in its quant mode, before a target has seen it."""
        import onnx
        import onnxruntime

        from topfive.graph import save_model

        optimized = self.optimized()
        if self.quant in ("as_is", "force_float32"):
            return optimized
        fields = {"optimized": optimized.key, "quant": self.quant, "code": _code_hash(CODE["quantize"])}
        if self.quant == "force_float16":
            from topfive.quantize.float16 import quantize_float16

            def make(out: Path) -> None:
                save_model(quantize_float16(onnx.load(optimized.file(MODEL))), out / MODEL)

            return self._stage(QuantizeError, {**fields, "onnxruntime": onnxruntime.__version__}, make)

        from topfive.quantize.ranges import read_ranges
        from topfive.quantize.symmetric import quantize_symmetric

        table_key, table_file = self.calibrated()

        def make_int8(out: Path) -> None:
            table = read_ranges(table_file())
            save_model(quantize_symmetric(onnx.load(optimized.file(MODEL)), table), out / MODEL)

        return self._stage(QuantizeError, {**fields, "ranges": table_key}, make_int8)

    # compile

    def artifact(self) -> Artifact:
        """The compiled artifact."""
        import onnx

        quantized = self.quantized()
        fields = {
            "quantized": quantized.key,
            "model": self.card.name,
            "target": self.target_name,
            "quant": self.quant,
            "versions": self.target.versions(),
            "code": _code_hash((*CODE["compile"], *_package_modules(self.target))),
        }

        def make(out: Path) -> None:
            meta = self.target.compile(onnx.load(quantized.file(MODEL)), self.quant, out)
            meta |= {
                "source_sha256": file_sha256(self.source()),
                "output": {"kind": self.card.output.kind, "entries": self.card.output.entries},
                "profile": self.card.input.profile,
                "simulated": self.target.simulated,
            }
            stored = {"model": self.card.name, "target": self.target_name, "quant": self.quant, "meta": meta}
            # The directory's own name is the key; it is not known to itself while it is made.
            stored["key"] = hashlib.sha256(json.dumps([fields, meta], sort_keys=True).encode()).hexdigest()
            (out / ARTIFACT_FILE).write_text(json.dumps(stored, indent=1, sort_keys=True), encoding="utf-8")

        return read_artifact(self._stage(CompileError, fields, make).path)
