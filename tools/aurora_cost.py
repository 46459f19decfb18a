"""Measure what the aurora chain costs: CPU time of this process, one thread. Source: aurora.md 7.

    python -m tools.aurora_cost [--scenes 60] [--pictures 200] [--json]

`raster` and the stages of the chain are timed on scenes of the test range, the modules themselves
on batches as in flight but without the process around them, the best of `--rounds` runs of each
scene, because other programs share the machine. The OpenCV stage decodes PNG files, masks and
counts in a fresh process, imports and all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from dipp.batch import encode_batch, split_blocks
from dipp.metadata import Metadata
from dipp.sdk import Batch, Params
from dipp.workspace import ImageRef, SegmentRange, Workspace
from modules.aurora.gate import GateSettings, count_objects
from modules.aurora.picture import Scale, heat_map
from modules.aurora.planes import ON_DISC_PIXELS, Floats
from modules.aurora.raster import DISC_ORDER, Frame, clean_slit, rasterise
from tools.aurora_cases import empty_disc, make_disc
from tools.aurora_scene import Scene, scene

STAGES = ("emus_disc", "aurora_snr", "aurora_cnn", "aurora_fuse")
FIRST = 200_000
_ARENA_BYTES = 32 << 20


Stage = tuple[str, Callable[[Batch], object]]


def as_batch(drawn: Scene, arena: mmap.mmap) -> Batch:
    """Return the swaths of a scene as the modules get them."""
    images = []
    for number, swath in enumerate(drawn.swaths, 1):
        rows, slit, planes = swath.planes.shape
        items = (
            ("fmt", "S9"), ("swath", number), ("swaths", len(drawn.swaths)), ("mode", "os2"),
            ("obs", str(number)),
        )  # fmt: skip
        metadata = Metadata(
            size=swath.planes.nbytes, width=slit, height=rows, channels=planes, bits_pixel=32,
            camera="EMUS", timestamp=number, obid=1, items=items,
        )  # fmt: skip
        images.append((metadata, swath.planes.tobytes()))
    segment = encode_batch(images)
    refs = [
        ImageRef(
            meta=SegmentRange(segment=0, offset=block.meta_offset, length=block.meta_size),
            pixels=SegmentRange(segment=0, offset=block.pixel_offset, length=block.pixel_size),
        )
        for block in split_blocks(segment, len(images), len(segment))
    ]
    space = Workspace.over([segment], memoryview(arena))
    return Batch.from_refs(refs, space, pipeline_id=1, batch_id=1)


def stages() -> list[Stage]:
    """Return the modules of the chain, ready to run."""
    found: list[Stage] = []
    for name in STAGES:
        module = importlib.import_module(f"modules.aurora.{name}")
        params = Params((), module.MANIFEST)
        if hasattr(module, "load"):
            module.load(params)
        found.append((name, partial(module.run, params=params)))
    return found


def once(drawn: Scene, work: list[Stage], arena: mmap.mmap, out: Floats) -> dict[str, float]:
    """Return the CPU time in milliseconds of rasterising a scene and of every stage."""
    swaths = [clean_slit(swath.planes) for swath in drawn.swaths]
    batch = as_batch(drawn, arena)
    marks = [time.process_time()]
    rasterise(swaths, Frame(), out)
    marks.append(time.process_time())
    for _, run in work:
        run(batch)
        marks.append(time.process_time())
    names = ("raster", *STAGES)
    return {name: 1e3 * (b - a) for name, (a, b) in zip(names, pairwise(marks), strict=True)}


def chain_ms(scenes: int, rounds: int) -> dict[str, float]:
    """Return the mean CPU time per scene of rasterising and of every stage of the chain."""
    work, out = stages(), empty_disc(len(DISC_ORDER))
    total = dict.fromkeys(("raster", *STAGES), 0.0)
    arena = mmap.mmap(-1, _ARENA_BYTES)
    for seed in range(FIRST, FIRST + scenes):
        drawn = scene(seed)
        runs = [once(drawn, work, arena, out) for _ in range(rounds)]
        for name in total:
            total[name] += min(each[name] for each in runs) / scenes
    return {**total, "chain": sum(total[name] for name in STAGES)}


def opencv_stage(folder: Path) -> None:
    """Decode, mask and count every PNG of a folder; print CPU seconds and megabytes at most."""
    alpha = np.where(ON_DISC_PIXELS, 255, 0).astype(np.uint8)
    for path in sorted(folder.glob("*.png")):
        picture = np.asarray(cv2.imread(str(path)), np.uint8)
        with_alpha = np.asarray(cv2.merge((*cv2.split(picture), alpha)), np.uint8)
        count_objects(with_alpha, GateSettings(block=31))
    # Not from getrusage: there a process that was forked also has what its parent had.
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps({"cpu_s": time.process_time(), "rss_mb": peak_kb / 1024}))


def measure_opencv(pictures: int) -> dict[str, float]:
    """Return what the OpenCV stage needs for that many heat maps, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        for seed in range(FIRST, FIRST + pictures):
            light = np.ascontiguousarray(make_disc(scene(seed))[..., 0])
            cv2.imwrite(f"{name}/{seed}.png", heat_map(light, Scale()))
        done = subprocess.run(
            [sys.executable, "-m", "tools.aurora_cost", "--opencv", name],
            check=True, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--opencv", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.opencv:
        opencv_stage(arguments.opencv)
        return
    spent = chain_ms(arguments.scenes, arguments.rounds)
    opencv = measure_opencv(arguments.pictures)
    if arguments.json:
        print(json.dumps({"ms_per_scene": spent, "opencv": opencv}, indent=1))
        return
    for name, value in spent.items():
        print(f"{name:12} {value:6.2f} ms per scene")
    print(f"1000 scenes, one core: {spent['chain']:.1f} s CPU")
    print(
        f"OpenCV stage, {arguments.pictures} pictures: {opencv['cpu_s']:.2f} s CPU,"
        f" {opencv['rss_mb']:.0f} MB at most"
    )


if __name__ == "__main__":
    main()
