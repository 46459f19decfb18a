"""Evaluate the detectors of the aurora chain on synthetic scenes. Source: aurora.md 7.

    python -m tools.aurora_eval --out out/aurora-eval [--tune 240 --test 400 --shifted 300]

Thresholds are chosen on the tune split only and then frozen. Writes report.json and prints a table.
All scenes are synthetic: nothing here can be compared with the paper's accuracy, whose 200 real
images and labels are not available.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from modules.aurora.aurora_cnn import MODELS
from modules.aurora.detections import Detection, Scenery, measure
from modules.aurora.fusion import Region, fuse
from modules.aurora.gate import GateSettings, count_objects
from modules.aurora.outline import bright_cells, trim
from modules.aurora.picture import Scale, heat_map
from modules.aurora.planes import ON_DISC_CELLS, ON_DISC_PIXELS, SHELL_RADIUS_KM, Bools, Floats
from modules.aurora.snr import Cells, SnrResult, SnrSettings, detect
from modules.aurora.unet import network_input, segments
from modules.common.tflite import Model, ModelError
from tools.aurora_cases import Truth, make_case
from tools.aurora_measure import (
    Confusion,
    best_threshold,
    f1_interval,
    match_regions,
    roc_auc,
    threshold_for_specificity,
)
from tools.aurora_scene import CONFIGS, Scene, scene

SPLITS = {
    "tune": (100_000, "default"),
    "test": (200_000, "default"),
    "shifted": (900_000, "shifted"),
}
GATES = {
    "gate mean 11 2 black": GateSettings(),
    "gate mean 11 2 white": GateSettings(is_black=False),
    "gate gaussian 51 2 black": GateSettings(is_gaussian=True, block=51),
}
SETTINGS = SnrSettings()
# As the modules have it by default.
EDGE_R = 1.0
# A detection of the physical detector that is no peak counts as this.
_DIFFUSE_SCORE = 1000.0
SNR_BINS = ((8, 15), (15, 30), (30, 60), (60, math.inf))


@dataclass(slots=True, kw_only=True)
class Record:
    """What is kept of a scene: truth, scores by detector, regions, time."""

    seed: int
    label: str
    kind: str
    snr: float
    night: int
    scores: dict[str, float] = field(default_factory=dict)
    truths: list[Bools] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)
    true_figures: list[Detection] = field(default_factory=list)
    region_snr: list[float] = field(default_factory=list)
    physical: list[Region] = field(default_factory=list)
    learned: list[Region] = field(default_factory=list)
    scenery: Scenery | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)


def examine(drawn: Scene, model: Model | None) -> Record:
    """Run every detector on a scene."""
    record = Record(seed=drawn.seed, label=drawn.label, kind=drawn.kind, snr=drawn.snr, night=0)
    disc, cells, truth = make_case(drawn)
    started = time.process_time()
    result = detect(cells, SETTINGS)
    record.milliseconds["snr"] = 1e3 * (time.process_time() - started)
    record.night = int(result.mask.sum())
    record.scenery = Scenery(
        light=np.where(result.mask, result.excess, cells.radiance - np.float32(result.background)),
        emission=cells.emission,
        solar_zenith=cells.solar_zenith,
        disc=disc,
    )
    bright = bright_cells(record.scenery.light, cells.error, EDGE_R)
    _physical(record, result, bright)
    if model is not None:
        started = time.process_time()
        tensor = network_input(cells, result.snr, model.input_shape[3])
        found = segments(model.run(tensor[None])[0, ..., 0], cells)
        record.milliseconds["cnn"] = 1e3 * (time.process_time() - started)
        record.scores["cnn"] = found.best
        record.learned = [
            Region(cells=trim(found.labels == label, bright), score=score)
            for label, score in found.scores.items()
        ]
    picture = np.dstack(
        (heat_map(disc[..., 0], Scale()), np.where(ON_DISC_PIXELS, 255, 0).astype(np.uint8))
    )
    for name, settings in GATES.items():
        record.scores[name] = count_objects(picture, settings)
    _true_regions(record, cells, truth, drawn)
    return record


def _physical(record: Record, result: SnrResult, bright: Bools) -> None:
    peak = max(result.peaks.values(), default=0.0)
    below = min(float(result.snr.max()), SETTINGS.high - 1e-3)
    record.scores["snr"] = _DIFFUSE_SCORE if result.is_diffuse else peak or below
    if result.is_diffuse:
        record.physical = [Region(cells=result.mask, snr=_DIFFUSE_SCORE, is_diffuse=True)]
    else:
        record.physical = [
            Region(cells=trim(result.labels == label, bright), snr=value)
            for label, value in result.peaks.items()
        ]


def _true_regions(record: Record, cells: Cells, truth: Truth, drawn: Scene) -> None:
    assert record.scenery is not None
    native = sum(
        int((np.hypot(s.planes[..., 7], s.planes[..., 8]) < 1).sum()) for s in drawn.swaths
    )
    # Cells are not independent: this many native pixels stand behind one.
    per_cell = native / max(int((cells.known & ON_DISC_CELLS).sum()), 1)
    with np.errstate(invalid="ignore"):
        easy = (cells.solar_zenith > 100) & (cells.emission < 75)
    count, labels = cv2.connectedComponents(truth.present.astype(np.uint8), connectivity=8)
    scenery = Scenery(
        light=truth.light,
        emission=cells.emission,
        solar_zenith=cells.solar_zenith,
        disc=record.scenery.disc,
    )
    for label in range(1, count):
        region = labels == label
        power = float(((truth.light[region] / cells.error[region]) ** 2).sum())
        snr = math.sqrt(power * per_cell)
        record.truths.append(region)
        record.region_snr.append(snr)
        record.true_figures.append(measure(region, scenery))
        record.counted.append(snr >= 12 and bool(region.sum() >= 12 and easy[region].mean() > 0.6))


# -- report


def image_figures(records: Sequence[Record], score: str, threshold: float) -> dict[str, Any]:
    """Return the figures of a classifier that says yes from a score on; ambiguous left out."""
    sure = [record for record in records if record.label != "ambiguous"]
    truth = np.array([record.label == "aurora" for record in sure])
    scores = np.array([record.scores[score] for record in sure])
    said = scores >= threshold
    confusion = Confusion.of(truth, said)
    night = np.array([record.night >= SETTINGS.least_cells for record in sure])
    snr = np.array([record.snr for record in sure])
    # The definition of "detection success" in aurora.md 7.
    clear = ~truth | ((snr >= 15) & night)
    figures: dict[str, Any] = {
        "threshold": threshold,
        "f1": confusion.f1,
        "f1_interval": f1_interval(truth, said),
        "auc": roc_auc(truth, scores),
        **{name: rate.as_json() for name, rate in confusion.rates().items()},
        "recall_with_night": _recall(truth & night, said),
        "success": Confusion.of(truth[clear], said[clear]).rates()["accuracy"].as_json(),
    }
    kinds = np.array([record.kind for record in sure])
    for kind in ("crustal", "patchy", "sinuous", "diffuse"):
        figures[f"recall_{kind}"] = _recall(truth & (kinds == kind), said)
    for low, high in SNR_BINS:
        figures[f"recall_snr_{low}"] = _recall(truth & (snr >= low) & (snr < high), said)
    return figures


def _recall(chosen: Bools, said: Bools) -> dict[str, float]:
    return Confusion.of(np.ones(int(chosen.sum()), bool), said[chosen]).rates()["recall"].as_json()


Predict = Callable[[Record], list[Detection | None]]


def region_figures(
    records: Sequence[Record], regions_of: Callable[[Record], list[Region]]
) -> dict[str, Any]:
    """Return recall of regions at three strictnesses, false regions, photometry and place."""
    total, hits = 0, {0.3: 0, 0.5: 0}
    touched = false = 0
    errors: dict[str, list[float]] = {"peak": [], "mean": [], "km": []}
    for record in records:
        regions = regions_of(record)
        total += sum(record.counted)
        for least in hits:
            match = match_regions(
                record.truths, record.counted, [region.cells for region in regions], least
            )
            hits[least] += len(match.pairs)
            if least == 0.3:
                touched, false = touched + len(match.touched), false + match.false
                for i, j, _ in match.pairs:
                    _compare(record, i, regions[j], errors)
    return {
        "regions": total,
        **{f"recall_{least}": hits[least] / max(total, 1) for least in hits},
        "recall_touch": touched / max(total, 1),
        "false_per_image": false / max(len(records), 1),
        **{f"median_{name}": _median(all_) for name, all_ in errors.items()},
    }


def _median(values: list[float], rounds: int = 400) -> dict[str, float] | None:
    """Return the median with its 95 % interval by resampling."""
    if not values:
        return None
    rng = np.random.default_rng(1)
    draws = rng.choice(np.array(values), (rounds, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return {
        "value": float(np.median(values)), "low": float(low), "high": float(high),
        "n": len(values),
    }  # fmt: skip


def _compare(record: Record, index: int, region: Region, errors: dict[str, list[float]]) -> None:
    if record.region_snr[index] < 30 or region.is_diffuse or record.scenery is None:
        return
    true, said = record.true_figures[index], measure(region.cells, record.scenery)
    errors["peak"].append(said.peak_r / true.peak_r - 1)
    errors["mean"].append(said.mean_r / true.mean_r - 1)
    if None not in (true.latitude, true.longitude, said.latitude, said.longitude):
        first, second = _unit(true), _unit(said)
        angle = math.acos(float(np.clip(first @ second, -1, 1)))
        errors["km"].append(angle * SHELL_RADIUS_KM)


def _unit(detection: Detection) -> Floats:
    latitude, longitude = (
        math.radians(detection.latitude or 0),
        math.radians(detection.longitude or 0),
    )
    flat = math.cos(latitude)
    return np.array([flat * math.cos(longitude), flat * math.sin(longitude), math.sin(latitude)])


def joined(rule: str, threshold: float) -> Callable[[Record], list[Region]]:
    """Return a function that gives the regions of a fusion rule."""

    def regions_of(record: Record) -> list[Region]:
        assert record.scenery is not None
        learned = [region for region in record.learned if (region.score or 0) >= threshold]
        joint = fuse(record.physical, learned, rule, record.scenery)
        return [
            Region(cells=joint.numbers == number, snr=found.snr, score=found.score)
            for number, found in enumerate(joint.detections, 1)
            if (joint.numbers == number).any() and (rule != "snr+" or found.snr is not None)
        ]

    return regions_of


def report(splits: dict[str, list[Record]], has_model: bool) -> dict[str, Any]:
    """Choose thresholds on tune, then measure both test splits."""
    tune = [record for record in splits["tune"] if record.label != "ambiguous"]
    truth = np.array([record.label == "aurora" for record in tune])
    thresholds = {"snr": SETTINGS.high, **dict.fromkeys(GATES, 2.0)}
    if has_model:
        scores = np.array([record.scores["cnn"] for record in tune])
        specific = threshold_for_specificity(truth, scores, 0.97)
        thresholds |= {"cnn": specific, "cnn (max F1)": best_threshold(truth, scores)}
    figures: dict[str, Any] = {"thresholds": thresholds}
    for split, records in splits.items():
        part: dict[str, Any] = {"images": len(records)}
        for name, threshold in thresholds.items():
            part[name] = image_figures(records, name.split(" (")[0], threshold)
        part["regions snr"] = region_figures(records, lambda record: record.physical)
        if has_model:
            limit = thresholds["cnn"]
            for record in records:
                sees = record.scores["cnn"] >= limit or record.scores["snr"] >= SETTINGS.high
                record.scores["or"] = float(sees)
            part["or"] = image_figures(records, "or", 1.0)
            for rule in ("cnn", "snr+", "or"):
                part[f"regions {rule}"] = region_figures(records, joined(rule, limit))
        figures[split] = part
    return figures


def _range(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "none"
    return f"{figure['value']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]"


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """Render the report as a table."""
    for split in SPLITS:
        part = figures[split]
        yield f"\n{split}: {part['images']} scenes"
        for name, row in part.items():
            if name.startswith("regions"):
                yield (
                    f"  {name:26} n={row['regions']} IoU0.3 {row['recall_0.3']:.2f}"
                    f" IoU0.5 {row['recall_0.5']:.2f} touch {row['recall_touch']:.2f}"
                    f" false/image {row['false_per_image']:.3f}"
                    f" peak {_range(row['median_peak'])} mean {_range(row['median_mean'])}"
                    f" km {_range(row['median_km'])}"
                )
            elif isinstance(row, dict):
                low, high = row["f1_interval"]
                yield f"  {name:26} F1 {row['f1']:.3f} [{low:.3f}, {high:.3f}] AUC {row['auc']:.3f}"
                for key in ("precision", "recall", "specificity", "success", "recall_with_night"):
                    rate = row[key]
                    yield (
                        f"    {key:24} {rate['value']:.3f}"
                        f" [{rate['low']:.3f}, {rate['high']:.3f}] n={rate['n']}"
                    )


def main() -> None:
    """Examine the splits and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/aurora-eval"))
    for name, count in (("tune", 240), ("test", 400), ("shifted", 300)):
        parser.add_argument(f"--{name}", type=int, default=count, help="scenes")
    parser.add_argument("--model", type=Path, default=MODELS / "aurora_unet.tflite")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    model = None
    try:
        model = Model(arguments.model)
    except ModelError as error:
        print(f"without a network: {error}")
    splits: dict[str, list[Record]] = {}
    for split, (first, config) in SPLITS.items():
        splits[split] = []
        for seed in range(first, first + getattr(arguments, split)):
            splits[split].append(examine(scene(seed, CONFIGS[config]), model))
            if seed % 50 == 49:
                print(f"{split} {seed - first + 1}", flush=True)
    figures = report(splits, model is not None)
    (arguments.out / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    print("\n".join(lines(figures)))


if __name__ == "__main__":
    main()
