"""Groups A to E of the fault catalogue: inject every row, judge it, then run a good batch."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from dipp.errors import Code
from dipp.hostile import FAULTS, LOADING, OK, has_compiler, write_module
from dipp.runner.executor import Chain, Completed, Limits, ModuleStep
from dipp.sandbox.namespaces import probe_namespaces
from dipp.sandbox.rungs import active_names
from dipp.testing import Harness, no_leaks, sample_image

IDENTITY = "def run(batch, params):\n    return batch\n"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def harness(scratch):
    limits = Limits(load_timeout_s=5.0, grace_s=1.0)
    with Harness(limits, str(scratch), namespaces=probe_namespaces()) as running:
        yield running


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    directory = tmp_path_factory.mktemp("modules")
    (directory / "identity.py").write_text(IDENTITY)
    return directory


@pytest.fixture(autouse=True)
def _clean(harness, scratch, modules):
    harness.run_images(chain_of(identity(modules), pipeline_id=2))
    (root,) = scratch.iterdir()
    with no_leaks(root):
        yield
        harness.settle(1)


def chain_of(*steps, pipeline_id=1):
    numbered = tuple(replace(step, index=i) for i, step in enumerate(steps, 1))
    return Chain(pipeline_id=pipeline_id, generation=1, steps=numbered)


def identity(modules):
    return ModuleStep(index=1, name="identity", path=str(modules / "identity.py"), timeout_s=5.0)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.number}-{fault.name}")
def test_fault_is_contained(fault, harness, modules):
    if fault.needs_compiler and not has_compiler():
        pytest.skip("no gcc to build a native module")
    active = active_names(harness.executor.stats.missing_rungs)
    if fault.needs and not set(fault.needs) & set(active):
        pytest.skip(f"none of {', '.join(fault.needs)} can be had here")
    step = write_module(fault, modules)
    started = time.monotonic()
    # Behind a good module and before another: position and abort of the chain are tested too.
    outcome = harness.run(chain_of(identity(modules), step, identity(modules)))
    took_s = time.monotonic() - started
    if isinstance(outcome, Completed):
        assert OK in fault.codes
        stages = outcome.stages
        assert len(stages) == 3
        images = [(meta, bytes(pixels)) for meta, pixels in outcome.images]
        assert [pixels for _, pixels in images] == [sample_image()[1]]
        outcome.close()
    else:
        assert outcome.code in fault.codes, (outcome.crash, outcome.log)
        assert outcome.module_index == 2
        assert outcome.crash.name == step.name
        assert len(outcome.crash.encode()) < 188
        assert fault.exception in outcome.crash.exception
        assert fault.log in outcome.crash.last_log
        stages = outcome.stages
        if fault in LOADING or outcome.code == Code.HOST_DIED:
            assert not stages
        else:
            # What may pass may also be noticed when the next one runs already.
            assert len(stages) in ({2, 3} if OK in fault.codes else {2})
        if outcome.code == Code.TIMEOUT:
            assert fault.timeout_s <= stages[1].wall_s < fault.timeout_s + 0.5
    if len(stages) > 1:
        assert fault.orphans in (stages[1].orphans, None)
        assert stages[1].leaked_segments == fault.leaked_segments
    assert took_s < 15
    # A cached good pipeline is untouched, and the supervisor is up.
    assert len(harness.run_images(chain_of(identity(modules), pipeline_id=2))) == 1
    assert harness.executor.stats.forge_restarts == 0


def test_a_second_result_spoils_the_batch_as_long_as_its_chain_runs(harness, modules):
    (lie,) = (fault for fault in FAULTS if fault.name == "two-results")
    (modules / "slow.py").write_text("import time\ndef run(batch, params):\n    time.sleep(0.3)\n")
    slow = replace(identity(modules), name="slow", path=str(modules / "slow.py"))
    outcome = harness.run(chain_of(identity(modules), write_module(lie, modules), slow))
    assert not isinstance(outcome, Completed)
    assert (outcome.code, outcome.module_index) == (Code.RESULT_INVALID, 2)
