"""The one place that imports a TFLite runtime, and checks a model before it is trusted.

tflite_runtime goes first, because a board's own build of it fits the board's NPU. A damaged model
kills the process on tflite_runtime 2.14, so a model is compared with the SHA-256 in its side-car
before an interpreter sees it. Interpreters have one thread: with more, one made before a fork hangs
in the child. `DIPP_TFLITE=tflite_runtime` or `ai_edge_litert` forces a runtime. Source:
dependencies.md 2.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_RUNTIMES: Final = ("tflite_runtime", "ai_edge_litert")
_FORCE: Final = "DIPP_TFLITE"
_DELEGATE_SYMBOLS: Final = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
# Far above any model that is uplinked; keeps a wrong path out of memory.
MODEL_LIMIT_BYTES: Final = 64 << 20


class ModelError(Exception):
    """A model or runtime that cannot be used; the text says why."""


def runtime() -> Any:
    """Return the interpreter module of a TFLite runtime. Raises ModelError."""
    forced = os.environ.get(_FORCE)
    reasons = []
    for name in (forced,) if forced else _RUNTIMES:
        try:
            found = importlib.import_module(f"{name}.interpreter")
        except (ImportError, AttributeError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        if name == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2:
            # It imports, and fails with SystemError when the first interpreter is made.
            reasons.append(f"tflite_runtime wants numpy 1, this is {np.__version__}")
            continue
        return found
    raise ModelError("no TFLite runtime: " + "; ".join(reasons))


def load_sidecar(model: Path) -> dict[str, Any]:
    """Read the JSON beside a model. Raises ModelError."""
    path = model.with_suffix(".json")
    try:
        sidecar = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from error
    if not isinstance(sidecar, dict):
        raise ModelError(f"{path} is not an object")
    return sidecar


class Model:
    """A checked model with its interpreter: float32 arrays in, float32 arrays out."""

    def __init__(self, path: Path, delegate: str = "") -> None:
        """Load a model and its side-car. Raises ModelError."""
        self.sidecar: Mapping[str, Any] = load_sidecar(path)
        content = _read(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        if self.sha256 != self.sidecar.get("sha256"):
            raise ModelError(f"{path} is not the file its side-car describes")
        module = runtime()
        delegates = [_load_delegate(module, delegate)] if delegate else None
        try:
            self._interpreter = module.Interpreter(
                model_content=content, num_threads=1, experimental_delegates=delegates
            )
            self._interpreter.allocate_tensors()
            (self._input,) = self._interpreter.get_input_details()
            (self._output,) = self._interpreter.get_output_details()
        except (ValueError, RuntimeError, SystemError) as error:
            raise ModelError(f"{path}: {error}") from error

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input tensor, batch first."""
        return tuple(int(size) for size in self._input["shape"])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output tensor, batch first."""
        return tuple(int(size) for size in self._output["shape"])

    @property
    def is_quantised(self) -> bool:
        """True if it takes and gives 8-bit integers, as NPUs want it."""
        return np.dtype(self._input["dtype"]).kind != "f"

    def run(self, values: Floats) -> Floats:
        """Return the output for one input tensor; quantised ones are converted."""
        self._interpreter.set_tensor(self._input["index"], _quantised(values, self._input))
        self._interpreter.invoke()
        return _real(self._interpreter.get_tensor(self._output["index"]), self._output)


def _load_delegate(module: Any, library: str) -> Any:
    """Load an external delegate. Raises ModelError.

    Looked at here before the runtime does: its half-made object would complain once more when it
    goes away, on stderr, that it was never finished.
    """
    try:
        found = ctypes.CDLL(library)
        missing = [name for name in _DELEGATE_SYMBOLS if not hasattr(found, name)]
        if missing:
            raise ModelError(f"delegate {library} is none: it has no {missing[0]}")
        return module.load_delegate(library)
    except (ValueError, OSError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"delegate {library} cannot be loaded: {reason}") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MODEL_LIMIT_BYTES:
            raise ModelError(f"{path} has more than {MODEL_LIMIT_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error}") from error


def _quantised(values: Floats, details: Mapping[str, Any]) -> Array:
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    scale, zero = details["quantization"]
    limits = np.iinfo(dtype)
    whole: Array = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
    return whole.astype(dtype)


def _real(values: Array, details: Mapping[str, Any]) -> Floats:
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    scale, zero = details["quantization"]
    result: Floats = ((values.astype(np.float32) - zero) * scale).astype(np.float32)
    return result
