"""JPEGs of the size of ImageNet's, drawn: what the sweep benchmarks run on, labelled by a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 375), (375, 500), (500, 333), (640, 480), (500, 500))
QUALITY = 92


def write_photographs(folder: Path, count: int) -> list[Path]:
    """`count` pictures with smooth shapes and grain, about as large on disk as ImageNet's (80 kB)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        if not path.exists():
            rng = np.random.default_rng(number)
            width, height = SIZES[number % len(SIZES)]
            coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
            grain = rng.integers(-14, 15, (height, width, 3), dtype=np.int16)
            Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
        paths.append(path)
    return paths
