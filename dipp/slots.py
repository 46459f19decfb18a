"""The configuration slots of the node and the chains made of them.

Theory of operation: a pushed value is decoded and checked as a whole; only then does it replace
the slot, so a bad one leaves the active configuration as it was. A chain is a snapshot: modules,
their files and parameters as they are when a batch starts, so an update in mid-pipeline reaches
the next batch, never the running one. A chain keeps its generation for as long as nothing in it
changes; that is what hosts are cached by, so a new configuration or a new module file invalidates
by itself. Source: dipp.md 5 and 12, defects D7..D9, D12, D18; faults 54..58.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from dipp.config.codec import decode_module, decode_pipeline
from dipp.config.definition import (
    NO_PARAMS,
    PARAM_SLOT_COUNT,
    PIPELINE_COUNT,
    ConfigValue,
    Fallback,
    ModuleConfig,
    PipelineDefinition,
)
from dipp.errors import Code, ContentError
from dipp.modulefiles import ModuleFile, ModuleLibrary
from dipp.runner.values import Chain, ModuleStep

DEFAULT_TIMEOUT_S = 30.0


class ModuleMissingError(ContentError):
    """A chain cannot be made because of one module; `module` is its 1-based position."""

    def __init__(self, message: str, code: int, module: int) -> None:
        super().__init__(message, code)
        self.module = module


class Slots:
    """Six pipelines, twenty parameter slots. `timeout_s` is asked whenever a chain is made."""

    def __init__(self, library: ModuleLibrary, timeout_s: Callable[[], float]) -> None:
        self._library = library
        self._timeout_s = timeout_s
        self._pipelines: dict[int, PipelineDefinition | None] = dict.fromkeys(
            range(1, PIPELINE_COUNT + 1)
        )
        self._params: dict[int, ModuleConfig | None] = dict.fromkeys(range(1, PARAM_SLOT_COUNT + 1))
        self._chains: dict[int, Chain] = {}
        self._generation = 0

    @property
    def configured(self) -> tuple[int, ...]:
        """Ids of the configured pipelines."""
        return tuple(number for number, value in self._pipelines.items() if value is not None)

    def restore_pipeline(self, number: int, value: bytes) -> None:
        """Load a stored slot at boot; modules are looked for when a batch needs them.

        Raises ContentError (516, 518); the slot is then not configured.
        """
        self._pipelines[number] = None
        self._pipelines[number] = decode_pipeline(value)

    def set_pipeline(self, number: int, value: bytes) -> None:
        """Replace a pipeline.

        Raises ContentError (516, 518), ModuleMissingError (501, 502, 519).
        """
        definition = decode_pipeline(value)
        if definition is not None:
            self._steps(definition)
        self._pipelines[number] = definition

    def set_params(self, number: int, value: bytes) -> tuple[int, ...]:
        """Replace a parameter slot; return the pipelines that use it. Raises ContentError."""
        self._params[number] = decode_module(value)
        return tuple(
            pipeline
            for pipeline, definition in self._pipelines.items()
            if definition is not None and any(m.param_id == number for m in definition.modules)
        )

    def chain(self, pipeline_id: int) -> Chain:
        """Return the chain for a batch.

        Raises ContentError (500) for a pipeline that does not exist or is not configured,
        ModuleMissingError (501, 502, 519).
        """
        definition = self._pipelines.get(pipeline_id)
        if definition is None:
            raise ContentError(f"pipeline {pipeline_id} is not configured", Code.PIPELINE_NOT_FOUND)
        chain = Chain(
            pipeline_id=pipeline_id,
            generation=self._generation + 1,
            steps=self._steps(definition),
        )
        current = self._chains.get(pipeline_id)
        if current is not None and replace(chain, generation=current.generation) == current:
            return current
        self._generation += 1
        self._chains[pipeline_id] = chain
        return chain

    def fallbacks(self, pipeline_id: int) -> Mapping[int, Fallback]:
        """Return what is configured to happen instead of each module, by 1-based position.

        The pipeline's own word counts before that of the parameter slot; SKIP if neither says.
        """
        definition = self._pipelines.get(pipeline_id)
        return {
            index: step.fallback or self._config(step.param_id).fallback or Fallback.SKIP
            for index, step in enumerate(definition.modules if definition else (), 1)
        }

    def _config(self, param_id: int) -> ModuleConfig:
        config = None if param_id == NO_PARAMS else self._params[param_id]
        return config if config is not None else ModuleConfig()

    def forget(self, pipeline_id: int) -> None:
        """Give the pipeline a new generation: its cached hosts are not used again."""
        self._chains.pop(pipeline_id, None)

    def _steps(self, definition: PipelineDefinition) -> tuple[ModuleStep, ...]:
        timeout_s = self._timeout_s() or DEFAULT_TIMEOUT_S
        steps = []
        for index, step in enumerate(definition.modules, 1):
            try:
                file = self._library.find(step.name)
            except ContentError as error:
                raise ModuleMissingError(str(error), error.code, index) from error
            params = self._config(step.param_id).for_module
            self._check_models(file, params, index)
            steps.append(
                ModuleStep(
                    index=index,
                    name=step.name,
                    path=str(file.path),
                    sha256=file.sha256,
                    params=params,
                    timeout_s=timeout_s,
                )
            )
        return tuple(steps)

    def _check_models(
        self, file: ModuleFile, params: tuple[tuple[str, ConfigValue], ...], index: int
    ) -> None:
        texts = (value for _, value in params if isinstance(value, str))
        try:
            self._library.check_beside(file, texts)
        except ContentError as error:
            raise ModuleMissingError(str(error), error.code, index) from error
