"""Decide what a batch runs when modules of its chain are quarantined. Pure.

Theory of operation: every step is kept, replaced by another version of the same module, or left
out; or the batch is refused. What was done is written on the images as metadata item `fb`, one word
per module, so that ground never takes them for the whole chain's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dipp.config.definition import Fallback
from dipp.errors import MisuseError
from dipp.metadata import Metadata
from dipp.modulefiles import ModuleFile
from dipp.runner.values import Chain, ModuleStep
from dipp.supervisor.policy import ModuleBook, ModuleKey

FALLBACK_ITEM = "fb"

# Given a step, the other versions of its module on board, best first.
Alternatives = Callable[[ModuleStep], Sequence[ModuleFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `keys` are those of the steps that run, by position; `marks` is the `fb` text.

    `refused` is the step because of which nothing may run.
    """

    chain: Chain
    keys: Mapping[int, ModuleKey] = field(default_factory=dict)
    marks: str = ""
    refused: ModuleStep | None = None


def key_of(pipeline: int, step: ModuleStep) -> ModuleKey:
    """Return what the failures of a step are counted for."""
    version = hashlib.sha256(repr((step.sha256 or step.path, step.params)).encode())
    return ModuleKey(pipeline=pipeline, name=step.name, version=version.hexdigest()[:16])


def plan_chain(
    chain: Chain, fallbacks: Mapping[int, Fallback], book: ModuleBook, alternatives: Alternatives
) -> Plan:
    """Return what a batch of this chain runs as things stand."""
    steps: list[ModuleStep] = []
    marks: list[str] = []
    for step in chain.steps:
        fallback = fallbacks.get(step.index, Fallback.SKIP)
        if fallback is Fallback.NONE or book.is_usable(key_of(chain.pipeline_id, step)):
            steps.append(step)
            continue
        if fallback is Fallback.PREVIOUS:
            other = _other_version(chain.pipeline_id, step, book, alternatives)
            if other is None:
                return Plan(chain=chain, refused=step)
            steps.append(other)
        elif fallback is not Fallback.IDENTITY:
            return Plan(chain=chain, refused=step)
        marks.append(f"{fallback.name.lower()}:{step.name}")
    effective = replace(chain, steps=tuple(steps)) if marks else chain
    keys = {step.index: key_of(chain.pipeline_id, step) for step in steps}
    return Plan(chain=effective, keys=keys, marks=",".join(marks))


def _other_version(
    pipeline: int, step: ModuleStep, book: ModuleBook, alternatives: Alternatives
) -> ModuleStep | None:
    for file in alternatives(step):
        other = replace(step, path=str(file.path), sha256=file.sha256)
        if file.sha256 != step.sha256 and book.is_usable(key_of(pipeline, other)):
            return other
    return None


def mark(metadata: Metadata, marks: str) -> Metadata:
    """Write on an image which modules did not do their part. A text of that key is replaced."""
    items = tuple(item for item in metadata.items if item[0] != FALLBACK_ITEM)
    marked = metadata.replace(items=(*items, (FALLBACK_ITEM, marks)))
    try:
        marked.encode()
    except MisuseError:
        # Metadata at its limit: better an image without the mark than no image.
        return metadata
    return marked
