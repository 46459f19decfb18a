"""What the author of a module imports.

A module is one Python file with a `MANIFEST` and `run(batch, params)`. `run` works on
`batch.images` (a plain list: change, remove, append) and returns the batch or None. It runs in a
process of its own; whatever it does there cannot hurt anything but this one batch. Optional:
`load(params)` is called once when the pipeline is loaded (build models there, as globals),
`rehearse(params)` warms up code paths in idle time and must have no visible effect.
Source: dipp.md 13.

    MANIFEST = Manifest("invert", "1.0", "negative of every image", errors={1: "image is encoded"})

    def run(batch: Batch, params: Params) -> None:
        for image in batch.images:
            if image.is_encoded:
                fail(1, "decode it first")
            pixels = image.edit()
            pixels ^= pixels.dtype.type(-1)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import numpy.typing as npt

from dipp.errors import CODE_LIMIT
from dipp.image import Image, Pixels
from dipp.manifest import REQUIRED, Manifest, Param, Params, ParamValue
from dipp.metadata import Metadata
from dipp.workspace import ImageRef, ModuleError, SeenImage, Workspace

__all__ = [
    "REQUIRED",
    "Batch",
    "Image",
    "Manifest",
    "Metadata",
    "ModuleError",
    "Param",
    "ParamValue",
    "Params",
    "fail",
]


def fail(code: int, reason: str = "") -> NoReturn:
    """Give up on the batch. 1..99 are the module's own numbers, listed in its manifest."""
    if not 0 <= code <= CODE_LIMIT:
        raise ValueError(f"error code {code} is not in 0..{CODE_LIMIT}")
    raise ModuleError(code, reason)


class Batch:
    """The images a module works on. `images` is a plain list; what it holds at the end goes on."""

    __slots__ = ("_images", "_seen", "_space", "batch_id", "dropped", "pipeline_id")

    def __init__(
        self, seen: Sequence[SeenImage], space: Workspace, pipeline_id: int, batch_id: int
    ) -> None:
        self._seen = seen
        self._images: list[Image] | None = None
        self.pipeline_id = pipeline_id
        self.batch_id = batch_id
        self.dropped: list[tuple[Image, str]] = []
        self._space = space

    @property
    def images(self) -> list[Image]:
        """The images: change, remove, append."""
        if self._images is None:
            space = self._space
            self._images = [Image(space, None, s.pixels, s.meta, s[6:]) for s in self._seen]
        return self._images

    @images.setter
    def images(self, images: Iterable[Image]) -> None:
        self._images = list(images)

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has looked at the images, so that all go on as they are. Runner only."""
        return self._images is None

    def __iter__(self) -> Iterator[Image]:
        # Over a copy, so that a loop may drop and append.
        return iter(list(self.images))

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def from_refs(
        cls, refs: Iterable[ImageRef], space: Workspace, *, pipeline_id: int, batch_id: int
    ) -> Batch:
        """Build the batch a module sees, from references alone. Raises ContentError (305)."""
        seen = [SeenImage.of(ref, Metadata.decode(space.view(ref.meta))) for ref in refs]
        return cls(seen, space, pipeline_id, batch_id)

    def allocate(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, zeroed: bool = True
    ) -> Pixels:
        """Return an array in the output memory; `Image.derive(pixels=...)` takes it uncopied.

        Say `zeroed=False` if every sample gets written anyway. Ends the module with 100 if the
        memory of the stage is used up.
        """
        return self._space.allocate(shape, dtype, zeroed=zeroed)

    def scratch(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
        """Return an array for temporary use whose memory is warm: what is in it is anything.

        It cannot become a result without a copy. When it is used up, you get private memory.
        """
        return self._space.scratch(shape, dtype)

    def drop(self, image: Image, reason: str) -> None:
        """Remove an image from the batch and say why in the log."""
        self.images = [kept for kept in self.images if kept is not image]
        self.dropped.append((image, reason))
        meta = image.metadata
        self.log(f"dropped image obid {meta.obid} camera {meta.camera}: {reason}")

    def replace(self, image: Image, *others: Image) -> None:
        """Put other images in the place of one, for example its tiles.

        Raises ValueError if that one is not in the batch.
        """
        images = self.images
        for at, kept in enumerate(images):
            if kept is image:
                images[at : at + 1] = others
                return
        raise ValueError("the image to be replaced is not in the batch")

    def log(self, text: str) -> None:
        """Write one line to the module's log; the last one is kept in a crash record."""
        sys.stderr.write(text.replace("\n", " ") + "\n")
        sys.stderr.flush()
