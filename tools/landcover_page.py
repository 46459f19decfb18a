"""Make a page of what the land-cover pipeline sent down: the patches in their place, and by rank.

    dipp run landcover frame.raw --out out/landcover
    python -m tools.landcover_page out/landcover

Writes index.html into the directory, complete in itself: browsers do not show JPEG XL, so the
patches are in it as JPEG, and what lies beside it stays the measure of quality.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt

# Pixels of the frame per pixel of the map.
_SHRINK = 4
_STYLE = """
body { font: 14px sans-serif; margin: 2em; background: #fff; color: #222 }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top }
figcaption { color: #555 } img { display: block } .map img { border: 1px solid #bbb }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One patch of the result."""

    name: str
    pixels: npt.NDArray[Any]
    items: dict[str, object]
    size_bytes: int

    def number(self, key: str) -> int:
        """Return an item that is a whole number, 0 without it."""
        value = self.items.get(key)
        return value if isinstance(value, int) else 0

    @property
    def caption(self) -> str:
        """Class, score, place and size in one line."""
        score, place = self.items.get("score", 0.0), f"{self.number('px')}, {self.number('py')}"
        kind = f"{self.number('rank')}. {self.items.get('class', '')} {score:.2f}"
        return f"{kind} at {place}, {self.size_bytes} bytes"


def load(folder: Path) -> dict[str, list[Sent]]:
    """Return the patches of every frame, the best first. Raises OSError, ValueError."""
    frames: dict[str, list[Sent]] = {}
    for path in sorted(folder.glob("*.jxl")):
        metadata = json.loads(path.with_suffix(".json").read_text())
        if "px" not in metadata["items"]:
            continue
        data = path.read_bytes()
        sent = Sent(
            name=path.name,
            pixels=imagecodecs.jpegxl_decode(data),
            items=metadata["items"],
            size_bytes=len(data),
        )
        frames.setdefault(path.stem.rpartition("-")[0] or path.stem, []).append(sent)
    for patches in frames.values():
        patches.sort(key=lambda patch: patch.number("rank"))
    return frames


def page(frames: dict[str, list[Sent]]) -> str:
    """Return the page."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Land cover</title><style>{_STYLE}</style>"]
    for name, patches in frames.items():
        counts = Counter(str(patch.items.get("class")) for patch in patches)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        size = sum(patch.size_bytes for patch in patches)
        parts.append(f"<h1>{html.escape(name)}</h1>")
        parts.append(f"<p>{len(patches)} patches, {size} bytes: {html.escape(kinds)}</p>")
        parts.append(f"<div class=map>{_image(_map(patches))}</div><h2>By rank</h2>")
        for patch in patches:
            caption = html.escape(f"{patch.caption}")
            parts.append(
                f"<figure>{_image(patch.pixels)}<figcaption>{caption}</figcaption></figure>"
            )
    return "\n".join(parts) + "\n"


def _map(patches: list[Sent]) -> npt.NDArray[Any]:
    """Return the patches in their places on grey, as far as the last of them."""
    bottom = max(patch.number("py") + patch.pixels.shape[0] for patch in patches)
    right = max(patch.number("px") + patch.pixels.shape[1] for patch in patches)
    canvas = np.full((-(-bottom // _SHRINK), -(-right // _SHRINK), 3), 225, np.uint8)
    for patch in patches:
        height, width = (max(1, side // _SHRINK) for side in patch.pixels.shape[:2])
        small = cv2.resize(patch.pixels, (width, height), interpolation=cv2.INTER_AREA)
        row, column = patch.number("py") // _SHRINK, patch.number("px") // _SHRINK
        canvas[row : row + height, column : column + width] = small
    return canvas


def _image(pixels: npt.NDArray[Any]) -> str:
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise ValueError(f"no JPEG of {pixels.shape}")
    text = base64.b64encode(data.tobytes()).decode()
    return f'<img src="data:image/jpeg;base64,{text}" alt="">'


def main() -> int:
    """Write the page; 1 if there is nothing to show."""
    parser = argparse.ArgumentParser(description="Make a page of the results of `landcover`.")
    parser.add_argument("folder", type=Path, help="what `dipp run landcover` wrote")
    folder = parser.parse_args().folder
    try:
        frames = load(folder)
        text = page(frames)
        if not frames:
            raise ValueError("no patch in it; say `dipp run landcover FRAME --out` this first")
        (folder / "index.html").write_text(text)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 1
    print(folder / "index.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
