"""What the aurora chain costs: scenes per second isolated, processor time per scene and stage.

Synthetic scenes only: it is about cost, not about accuracy. The paper's figures come from another
machine; only the limits of aurora.md 7, which follow from them, are compared.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from bench.effort import Effort
from bench.figures import Figure, Section, Table, text_of
from bench.pipeline import InProcess, Input, Tree, make_input
from bench.timing import Ratio, Times, contest
from dipp.metadata import Metadata
from dipp.runfiles import find_pipeline, load_chain
from modules.aurora.gate import GateSettings, count_objects
from modules.aurora.picture import Scale, heat_map
from modules.aurora.planes import ON_DISC_PIXELS
from modules.aurora.source import load
from tools.aurora_cases import make_disc
from tools.aurora_scene import DEFAULT, Scene, scene
from tools.aurora_synth import EPOCH, write_scene

# Seeds of the benchmark, outside all splits of the evaluation.
_FIRST_SEED = 7_000_000
_SCENES, _QUICK_SCENES = 8, 2
_BUDGET_S = 20.0
_PAPER_PICTURES = 200
_TIMEOUT_S = 60.0


def measure(effort: Effort) -> Section:
    """Alternate isolated and in one process over the same scenes."""
    count = effort.some(_SCENES, _QUICK_SCENES)
    effort.say(f"drawing {count} scenes")
    drawn = [scene(_FIRST_SEED + number, DEFAULT) for number in range(count)]
    made = [make_input(_images(each)) for each in drawn]
    chain = load_chain(find_pipeline("aurora"), timeout_s=_TIMEOUT_S)
    local = InProcess(chain)
    stage_s: list[list[float]] = []
    effort.say("the chain")
    with Tree(chain) as tree:
        times = contest(
            {
                "isolated": partial(tree.sustained, made),
                "in process": partial(_processor_s, local, made, stage_s),
                "again": partial(tree.sustained, made),
            },
            budget_s=effort.budget_s(_BUDGET_S),
            least=2,
        )
    for each in made:
        each.close()
    effort.say("the published classifier")
    gate_s = _gate_s(drawn, effort.some(3, 1))
    names = [step.name for step in chain.steps]
    per_stage = np.array(stage_s).min(axis=0)
    rows = [(n, text_of(s * 1e3)) for n, s in zip(names, per_stage, strict=True)]
    return Section(
        name="aurora",
        title="Aurora: what it costs",
        figures=_figures(times, count, gate_s),
        tables=(
            Table(title="Wall time per scene in one process, best", head=("stage", "ms"),
                  rows=tuple(rows)),
        ),
        notes=("Synthetic scenes of the layout of EMUS; no FITS reading in the times.",),
    )  # fmt: skip


def _figures(times: dict[str, Times], count: int, gate_s: Times) -> tuple[Figure, ...]:
    control = Ratio.of(times["again"], times["isolated"])
    isolated, local = times["isolated"], times["in process"]
    return (
        Figure(
            key="aurora.scenes_per_s",
            value=count / isolated.best,
            median=count / isolated.median,
            unit="1/s",
            what="scenes through the isolated chain, sustained",
        ),
        Figure(
            key="aurora.cpu_s_per_1000",
            value=1000 * local.best / count,
            median=1000 * local.median / count,
            unit="s",
            what="processor time of 1000 scenes in one process, one thread",
        ),
        Figure(
            key="aurora.paper_gate_s_per_200",
            value=gate_s.best,
            median=gate_s.median,
            unit="s",
            what="processor time of the published classifier on 200 PNG pictures",
        ),
        Figure(
            key="aa.aurora",
            value=control.best,
            median=control.median,
            unit="×",
            what="control: the isolated chain against itself",
        ),
    )


def _images(drawn: Scene) -> list[tuple[Metadata, bytes]]:
    """Return the swaths of a scene as a camera's images, by way of the files."""
    with TemporaryDirectory(prefix="bench-aurora-") as folder:
        return [load(path) for path in write_scene(drawn, Path(folder), EPOCH)]


def _processor_s(local: InProcess, batches: list[Input], stage_s: list[list[float]]) -> float:
    began = time.process_time()
    for batch in batches:
        local.run(batch)
        stage_s.append(local.stage_s)
    return time.process_time() - began


def _gate_s(drawn: list[Scene], rounds: int) -> Times:
    """Return processor seconds for 200 pictures: decode, mask, count objects."""
    pictures = []
    for each in drawn:
        is_encoded, data = cv2.imencode(".png", heat_map(make_disc(each)[..., 0], Scale()))
        if not is_encoded:
            raise RuntimeError("no PNG encoder")
        pictures.append(data)
    alpha = np.where(ON_DISC_PIXELS, 255, 0).astype(np.uint8)
    found = []
    for _ in range(rounds):
        began = time.process_time()
        for number in range(_PAPER_PICTURES):
            colour = cv2.imdecode(pictures[number % len(pictures)], cv2.IMREAD_COLOR)
            if colour is None:
                raise RuntimeError("a picture that was just made cannot be read")
            count_objects(np.dstack((colour, alpha)), GateSettings())
        found.append(time.process_time() - began)
    return Times(tuple(found))
