"""The whole land-cover pipeline as one module: the same five modules in one process.

It exists to measure what the isolation of modules costs; results are equal picture by picture. Its
parameters are those of the five. An error n of the k-th module is error 10 k + n here.
"""

from __future__ import annotations

from types import ModuleType

from dipp.sdk import Batch, Manifest, ModuleError, Params, fail
from modules import demosaic, jxl
from modules.landcover import landcover, patches, select

STAGES: tuple[ModuleType, ...] = (demosaic, patches, landcover, select, jxl)
# A module's own numbers are 1..99, and each of the five needs fewer than ten.
_NUMBERS_PER_STAGE = 10
_OWN_ERRORS = range(1, _NUMBERS_PER_STAGE)

MANIFEST = Manifest(
    "landcover_all",
    "1.0",
    "demosaic, patches, landcover, select and jxl in one module",
    params=tuple(param for stage in STAGES for param in stage.MANIFEST.params),
    adds=tuple(row for stage in STAGES for row in stage.MANIFEST.adds),
    errors={
        _NUMBERS_PER_STAGE * number + code: f"{stage.MANIFEST.name}: {text}"
        for number, stage in enumerate(STAGES, 1)
        for code, text in stage.MANIFEST.errors.items()
    },
)


def load(params: Params) -> None:
    """Load the model once."""
    _each("load", params)


def run(batch: Batch, params: Params) -> Batch:
    """Run the five modules on the batch, one after the other."""
    for number, stage in enumerate(STAGES, 1):
        try:
            stage.run(batch, _params(stage, params))
        except ModuleError as error:
            _fail(number, error)
    return batch


def rehearse(params: Params) -> None:
    """Warm up all five."""
    _each("rehearse", params)


def _each(name: str, params: Params) -> None:
    for number, stage in enumerate(STAGES, 1):
        if hasattr(stage, name):
            try:
                getattr(stage, name)(_params(stage, params))
            except ModuleError as error:
                _fail(number, error)


def _params(stage: ModuleType, params: Params) -> Params:
    known = {param.key for param in stage.MANIFEST.params}
    return Params([(key, params[key]) for key in params if key in known], stage.MANIFEST)


def _fail(number: int, error: ModuleError) -> None:
    code = error.code + _NUMBERS_PER_STAGE * number if error.code in _OWN_ERRORS else error.code
    fail(code, error.reason)
