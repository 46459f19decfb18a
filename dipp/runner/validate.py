"""Check images that a less trusted process says it has made.

Theory of operation: every range is compared with the real size of its segment and every metadata
record is decoded before anybody uses it. Metadata that the previous stage had already is not
judged again, so a strange but accepted input may pass through. Pure: bytes come from a callback.
Source: dipp.md 8, defect D5, faults 38..45.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from dipp.batch import MAX_IMAGES
from dipp.errors import Code, ContentError
from dipp.metadata import METADATA_LIMIT_BYTES, Metadata
from dipp.workspace import ENCODING_ITEM, ImageRef, SegmentRange

ReadRange = Callable[[SegmentRange], bytes]


def check_images(
    images: Sequence[ImageRef],
    sizes: Sequence[int],
    read: ReadRange,
    known: Collection[ImageRef] = (),
    decoded: Mapping[SegmentRange, Metadata] | None = None,
) -> tuple[Metadata, ...]:
    """Return the metadata of the images. Raises ContentError (603) at the first lie.

    `sizes` are the real sizes of the segments in bytes. `read` returns the bytes of a range that
    lies within its segment. `known` are images that were accepted before, `decoded` metadata that
    need not be read again, by where they lie.
    """
    decoded = decoded or {}
    if len(images) > MAX_IMAGES:
        raise _lie(0, f"{len(images)} images, at most {MAX_IMAGES}")
    accepted, found, count = set(known), [], len(sizes)
    for index, ref in enumerate(images):
        for segment, offset, length in ref:
            if segment >= count:
                raise _lie(index, f"segment {segment} of {count}")
            if offset + length > sizes[segment]:
                raise _lie(index, f"ends at {offset + length}, segment has {sizes[segment]}")
        meta, pixels = ref
        metadata = decoded.get(meta)
        if metadata is None:
            metadata = _read_metadata(index, meta, read)
        if metadata.size != pixels.length:
            text = f"metadata says {metadata.size} bytes, there are {pixels.length}"
            raise _lie(index, text)
        problem = None if ref in accepted else _problem(metadata)
        if problem:
            raise _lie(index, problem)
        found.append(metadata)
    return tuple(found)


def _read_metadata(index: int, place: SegmentRange, read: ReadRange) -> Metadata:
    if place.length > METADATA_LIMIT_BYTES:
        raise _lie(index, f"metadata of {place.length} bytes")
    raw = read(place)
    if len(raw) != place.length:
        raise _lie(index, f"metadata has {len(raw)} of {place.length} bytes")
    try:
        return Metadata.decode(raw)
    except ContentError as error:
        raise _lie(index, str(error)) from error


def _problem(metadata: Metadata) -> str | None:
    # No exact comparison with bits_pixel: flown modules leave a stale one behind. More samples
    # than bytes cannot be true of anything that is not encoded.
    samples = metadata.height * metadata.width * max(metadata.channels, 1)
    if samples > metadata.size and metadata.item(ENCODING_ITEM) is None:
        size = metadata.size
        return f"{metadata.height}x{metadata.width}x{metadata.channels} in {size} bytes"
    if metadata.items:
        keys = [key for key, _ in metadata.items]
        if len(set(keys)) != len(keys):
            return "duplicate metadata keys"
    return None


def _lie(index: int, text: str) -> ContentError:
    return ContentError(f"image {index}: {text}", Code.RESULT_INVALID)
