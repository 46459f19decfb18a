"""Run a module file in this process on a batch made by hand."""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from dipp.batch import encode_batch, split_blocks
from dipp.metadata import Metadata
from dipp.sdk import Batch, Image, Params
from dipp.workspace import ImageRef, SegmentRange, Workspace

FOLDER = Path(__file__).resolve().parents[2] / "modules"


def module_files() -> dict[str, Path]:
    """Return the shipped modules by name: in the folder itself, or in that of a family."""
    plain = {path.stem: path for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    # Files of a family without a manifest are code that its modules share.
    family = [path for path in FOLDER.glob("*/*.py") if "\nMANIFEST = " in path.read_text()]
    return {**plain, **{path.stem: path for path in family}}


def load(name: str) -> ModuleType:
    """Load a module as the runner does: from its file, outside any package."""
    path = module_files()[name]
    spec = importlib.util.spec_from_file_location(f"module_under_test_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe(pixels: np.ndarray, bits: int | None = None, **fields: object) -> Metadata:
    """Return metadata that fit an array."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = bits or 8 * pixels.itemsize
    return Metadata(
        height=pixels.shape[0], width=pixels.shape[1], channels=channels, bits_pixel=bits,
        **{"timestamp": 1_744_407_764, "obid": 7, "camera": "rgb", **fields},
    )  # fmt: skip


def make_batch(
    images: Iterable[tuple[np.ndarray, Metadata]], arena_bytes: int = 64 << 20
) -> tuple[Batch, bytes]:
    """Return a batch as a module sees it, and the segment behind it."""
    pairs = [(meta, np.ascontiguousarray(pixels).tobytes()) for pixels, meta in images]
    segment = encode_batch(pairs)
    blocks = split_blocks(segment, len(pairs), len(segment)) if pairs else ()
    refs = [
        ImageRef(
            meta=SegmentRange(segment=0, offset=b.meta_offset, length=b.meta_size),
            pixels=SegmentRange(segment=0, offset=b.pixel_offset, length=b.pixel_size),
        )
        for b in blocks
    ]
    space = Workspace.over([segment], memoryview(mmap.mmap(-1, arena_bytes)))
    return Batch.from_refs(refs, space, pipeline_id=1, batch_id=1), segment


def run(name: str, images: Iterable[tuple[np.ndarray, Metadata]], **params: object) -> list[Image]:
    """Run a module on images and return what it passes on."""
    module = load(name)
    batch, segment = make_batch(images)
    before = bytes(segment)
    result = module.run(batch, Params(params.items(), module.MANIFEST))
    assert segment == before, "a module changed its input"
    return (batch if result is None else result).images
