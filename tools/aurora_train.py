"""Train the segmentation network of the aurora chain and export it for TFLite.

Development only: wants tensorflow-cpu 2.21 and opencv-python-headless in an environment of its own.

    python -m tools.aurora_train data  --out out/aurora --scenes 2000
    python -m tools.aurora_train fit   --out out/aurora --minutes 20
    python -m tools.aurora_train ship  --out out/aurora

`data` draws scenes (seeds 1000.. for training, 100000.. for the choice of the threshold), `fit`
trains, `ship` writes modules/aurora/models. Source: aurora.md 6.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from modules.aurora.planes import CELLS, Array
from modules.aurora.snr import SnrSettings, detect
from modules.aurora.unet import OUTPUT_CELLS, network_input, segments
from tools.aurora_cases import make_case, training_target
from tools.aurora_measure import Confusion, roc_auc, threshold_for_specificity
from tools.aurora_scene import DEFAULT, scene

TRAIN_SEED, TUNE_SEED = 1_000, 100_000
BATCH = 16
WIDTHS = {3: 12, 4: 8}
MODELS = Path(__file__).resolve().parents[1] / "modules" / "aurora" / "models"


# -- data

open_memmap: Any = np.lib.format.open_memmap  # numpy leaves it without annotations


def draw(out: Path, first: int, count: int, name: str) -> None:
    """Draw scenes and keep what the network sees of them."""
    inputs = open_memmap(out / f"{name}_x.npy", "w+", np.float16, (count, CELLS, CELLS, 4))
    targets = open_memmap(
        out / f"{name}_y.npy", "w+", np.uint8, (count, OUTPUT_CELLS, OUTPUT_CELLS)
    )
    settings = SnrSettings()
    for number in range(count):
        _, cells, truth = make_case(drawn := scene(first + number, DEFAULT))
        inputs[number] = network_input(cells, detect(cells, settings).snr, 4)
        targets[number] = training_target(cells, truth)
        if number % 100 == 0:
            print(f"{name} {number}/{count} {drawn.label}", flush=True)
    (out / f"{name}.json").write_text(json.dumps({"first": first, "count": count}))


# -- network


def build(channels: int) -> Any:
    """Return the depthwise-separable U-Net."""
    import keras
    from keras import layers

    width = WIDTHS[channels]

    def finish(x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    def separable(x: Any, filters: int, stride: int = 1) -> Any:
        x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(x)
        return finish(layers.Conv2D(filters, 1, use_bias=False)(finish(x)))

    def up(x: Any, skip: Any, filters: int) -> Any:
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        return separable(layers.Concatenate()([x, skip]), filters)

    inputs = keras.Input((CELLS, CELLS, channels))
    x = finish(layers.Conv2D(width, 3, 2, "same", use_bias=False)(inputs))
    a = separable(x, 2 * width)
    b = separable(separable(a, 3 * width, 2), 3 * width)
    c = separable(separable(b, 4 * width, 2), 4 * width)
    x = separable(separable(c, 6 * width, 2), 6 * width)
    x = up(up(up(x, c, 4 * width), b, 3 * width), a, 2 * width)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def loss(target: Any, answer: Any) -> Any:
    """Weighted cross-entropy (positive cells twice) plus half the soft Dice loss."""
    import tensorflow as tf

    counted = tf.cast(target < 1.5, tf.float32)
    truth = tf.cast(target, tf.float32) * counted
    answer = tf.clip_by_value(answer[..., 0], 1e-6, 1 - 1e-6)
    entropy = -(2 * truth * tf.math.log(answer) + (1 - truth) * tf.math.log(1 - answer))
    entropy = tf.reduce_sum(entropy * counted) / tf.maximum(tf.reduce_sum(counted), 1)
    both = tf.reduce_sum(truth * answer * counted, (1, 2))
    size = tf.reduce_sum((truth + answer) * counted, (1, 2))
    return entropy + 0.5 * tf.reduce_mean(1 - (2 * both + 1) / (size + 1))


def augment(rng: np.random.Generator, inputs: Array, targets: Array) -> tuple[Array, Array]:
    """Turn, mirror and shift the brightness of a batch a little."""
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    inputs, targets = np.rot90(inputs, turns, (1, 2)), np.rot90(targets, turns, (1, 2))
    if mirrored:
        inputs, targets = inputs[:, ::-1], targets[:, ::-1]
    inputs = inputs.astype(np.float32)
    inputs[..., 0] += rng.uniform(-0.02, 0.02, (len(inputs), 1, 1))
    return np.ascontiguousarray(inputs), np.ascontiguousarray(targets).astype(np.float32)


def fit(out: Path, channels: int, minutes: float, seed: int) -> None:
    """Train for a time; the rate of learning falls along a cosine of the time used."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = np.load(out / "train_x.npy")
    y = np.load(out / "train_y.npy")
    model = build(channels)
    optimizer = keras.optimizers.Adam(3e-3)

    def take_step(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(targets, model(inputs, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    step: Callable[[Any, Any], Any] = tf.function(take_step, jit_compile=False)
    started, steps, epochs = time.monotonic(), 0, 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        order, losses = rng.permutation(len(x)), []
        for at in range(0, len(x) - BATCH + 1, BATCH):
            done = min(1.0, (time.monotonic() - started) / (60 * minutes))
            optimizer.learning_rate = 2e-5 + (3e-3 - 2e-5) * (1 + np.cos(np.pi * done)) / 2
            pick = np.sort(order[at : at + BATCH])
            losses.append(float(step(*augment(rng, x[pick][..., :channels], y[pick]))))
            steps += 1
            if done >= 1:
                break
        epochs += 1
        print(f"epoch {epochs} {done:.2f} loss {np.mean(losses):.4f}", flush=True)
    model.save(out / f"unet{channels}.keras")
    (out / f"unet{channels}.json").write_text(
        json.dumps(
            {
                "channels": channels,
                "scenes": len(x),
                "first_seed": TRAIN_SEED,
                "seed": seed,
                "steps": steps,
                "epochs": epochs,
                "batch": BATCH,
                "minutes": minutes,
            }
        )
    )


# -- shipping


def convert(model: Any, samples: Array | None) -> bytes:
    """Return a TFLite file: float16 weights, or with samples all of it in 8-bit integers."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if samples is None:
        converter.target_spec.supported_types = [tf.float16]
    else:
        converter.representative_dataset = lambda: ([each[None]] for each in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def ship(out: Path, channels: int, tune: int) -> None:
    """Choose the threshold on the tune scenes and write the model files with their side-cars."""
    import keras

    model = keras.models.load_model(out / f"unet{channels}.keras", compile=False)
    labels, scores = [], []
    for seed in range(TUNE_SEED, TUNE_SEED + tune):
        drawn = scene(seed, DEFAULT)
        if drawn.label == "ambiguous":
            continue
        _, cells, _ = make_case(drawn)
        tensor = network_input(cells, detect(cells, SnrSettings()).snr, channels)
        answer = np.asarray(model(tensor[None], training=False))[0, ..., 0]
        labels.append(drawn.label == "aurora")
        scores.append(segments(answer, cells).best)
    truth, values = np.array(labels), np.array(scores)
    # Where the tune scenes allow any threshold, a component must still be worth a whole cell.
    threshold = max(threshold_for_specificity(truth, values, 0.97), 1.0)
    confusion = Confusion.of(truth, values >= threshold)
    sidecar = {
        "channels": channels,
        "threshold": round(threshold, 3),
        "training": json.loads((out / f"unet{channels}.json").read_text()),
        "tune": {
            "first_seed": TUNE_SEED, "scenes": tune, "specificity_wanted": 0.97,
            "f1": round(confusion.f1, 4), "auc": round(roc_auc(truth, values), 4),
        },
        "data": "synthetic scenes only (tools/aurora_scene.py)",
    }  # fmt: skip
    samples = np.load(out / "train_x.npy", mmap_mode="r")[:100, ..., :channels].astype(np.float32)
    MODELS.mkdir(exist_ok=True)
    suffix = "" if channels == 4 else f"{channels}"
    for name, content in (
        (f"aurora_unet{suffix}", convert(model, None)),
        (f"aurora_unet{suffix}_int8", convert(model, samples)),
    ):
        digest = hashlib.sha256(content).hexdigest()
        (MODELS / f"{name}.tflite").write_bytes(content)
        text = json.dumps({"sha256": digest, **sidecar}, indent=1)
        (MODELS / f"{name}.json").write_text(text + "\n")
        print(name, len(content), text)


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("data", "fit", "ship"))
    parser.add_argument("--out", type=Path, default=Path("out/aurora"))
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--tune", type=int, default=240, help="scenes for the threshold")
    parser.add_argument("--channels", type=int, default=4, choices=(3, 4))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    if arguments.step == "data":
        draw(arguments.out, TRAIN_SEED, arguments.scenes, "train")
    elif arguments.step == "fit":
        fit(arguments.out, arguments.channels, arguments.minutes, arguments.seed)
    else:
        ship(arguments.out, arguments.channels, arguments.tune)


if __name__ == "__main__":
    main()
