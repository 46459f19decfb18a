"""Cut pictures into square patches, row by row from the upper left.

What the grid does not cover is left off in equal parts at both sides, or, with `overlap`, the last
row and column are moved inwards so that everything is covered. A picture that is smaller than a
patch is passed on whole. Patches of a picture as wide as a patch are parts of its memory and
travel by reference; any other patch is copied once, because an image is one piece of memory.
"""

from __future__ import annotations

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "patches",
    "1.0",
    "cut pictures into square patches",
    params=(
        Param("size", "int", 224, "pixels per side of a patch", 16, 4096),
        Param("overlap", "bool", False, "cover the whole picture: the last patches may overlap"),
    ),
    adds=(
        ("px", "int", "column of the patch's upper left pixel in the picture"),
        ("py", "int", "row of the patch's upper left pixel in the picture"),
    ),
    errors={
        1: "image is encoded: place this module before the encoder",
        2: "more patches than a batch can hold",
    },
)
# As many as one batch may have images; a full frame in patches of 224 has 99.
MAX_PATCHES = 4096


def run(batch: Batch, params: Params) -> Batch:
    """Replace every image by its patches."""
    size, overlap = params.get_int("size"), params.get_bool("overlap")
    result: list[Image] = []
    for image in batch:
        corners = _corners(image, size, overlap)
        if len(result) + len(corners) > MAX_PATCHES:
            fail(2, f"patches of {size} from {len(batch)} images; limit {MAX_PATCHES}")
        result += _cut(batch, image, corners, size)
    batch.images = result
    return batch


def _corners(image: Image, size: int, overlap: bool) -> list[tuple[int, int]]:
    """Return row and column of every patch; none if the picture is too small for one."""
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    rows, columns = (
        _starts(length, size, overlap) for length in (image.metadata.height, image.metadata.width)
    )
    return [(row, column) for row in rows for column in columns]


def _starts(length: int, size: int, overlap: bool) -> list[int]:
    count, rest = divmod(length, size)
    if overlap and rest and count:
        return [*(number * size for number in range(count)), length - size]
    return [rest // 2 + number * size for number in range(count)]


def _cut(batch: Batch, image: Image, corners: list[tuple[int, int]], size: int) -> list[Image]:
    others = tuple(item for item in image.metadata.items if item[0] not in ("px", "py"))
    if not corners:
        return [image.derive(items=(*others, ("px", 0), ("py", 0)))]
    pixels = image.pixels
    result = []
    copies = None
    for number, (row, column) in enumerate(corners):
        patch = pixels[row : row + size, column : column + size]
        if not patch.flags.c_contiguous:
            if copies is None:
                shape = (len(corners), *patch.shape)
                copies = batch.allocate(shape, patch.dtype, zeroed=False)
            copies[number] = patch
            patch = copies[number]
        result.append(image.derive(patch, items=(*others, ("px", column), ("py", row))))
    return result
