"""Emulated tools and libraries of `mlu370` and `tensorrt`, where the real ones are not installed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from topfive.cards import find_card, load_cards
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.targets.tools import printed_by

EMULATORS = Path(__file__).resolve().parent / "emulators"
FAILURE = "TOPFIVE_EMULATED_FAILURE"


class Emulated:
    """What stands in for a vendor's tools and libraries; does nothing where `real` ones are installed."""

    def __init__(
        self, name: str, packages: tuple[str, ...], patch: pytest.MonkeyPatch, *, real: bool
    ) -> None:
        self.folder = EMULATORS / name
        self._packages, self._patch, self._real = packages, patch, real
        if real:
            return
        patch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("TOPFIVE_EMULATOR_PYTHON", sys.executable)
        patch.syspath_prepend(str(self.folder))
        self.told()

    def told(self, **variables: str) -> None:
        """Set environment variables and let the libraries be imported anew."""
        for name, value in variables.items():
            self._patch.setenv(name, value)
        self.forget()
        importlib.invalidate_caches()
        printed_by.cache_clear()

    def fails(self, step: str) -> None:
        """From now on, in this process and in others."""
        self._patch.setenv(FAILURE, step)

    def works(self) -> None:
        self._patch.delenv(FAILURE, raising=False)

    def forget(self) -> None:
        if self._real:
            return
        for name in list(sys.modules):
            if name.partition(".")[0] in self._packages:
                del sys.modules[name]


def pictures(model: str, count: int) -> np.ndarray:
    """The first pictures of a card, prepared, repeated if there are fewer."""
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[: min(count, 4)]]
    batch = preprocess_batch(paths, load_profile(card.input.profile), card.input.size)
    return np.resize(batch, (count, *batch.shape[1:]))
