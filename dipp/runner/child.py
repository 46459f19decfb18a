"""The module child: one execution of one module on one batch, then the end of the process.

Driver; runs in a process forked by a pipeline host. It reports and enforces nothing: whatever it
says is checked by the host, whatever it does is bounded by the host. It waits for a `Go` frame
first, so that a child may as well be forked and warmed before its batch exists.
Source: performance.md 2, dipp.md 10, defect D22.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from typing import NoReturn

from dipp.errors import Code, DippError
from dipp.runner.arena import map_segment
from dipp.runner.channel import Channel
from dipp.runner.loader import ErrorPipe, LoadedModule
from dipp.runner.protocol import (
    REASON_LIMIT_BYTES,
    Frame,
    Go,
    ModuleDone,
    ModuleFailed,
    ModuleRaised,
    encode_frame,
)
from dipp.runner.values import Policy, clip
from dipp.runner.wire import FrameError
from dipp.sandbox.gear import Gear
from dipp.sandbox.ladder import climb
from dipp.sandbox.limits import Confinement
from dipp.sdk import ModuleError
from dipp.workspace import Workspace

# Deeper frames of a traceback say nothing new and push the message out of the log tail.
_TRACEBACK_FRAMES = 12


def run_child(
    channel: Channel,
    module: LoadedModule,
    policy: Policy,
    gear: Gear,
    log_fd: int,
    parent_pid: int,
) -> NoReturn:
    """Wait for the order, run the module, report, exit. Never returns."""
    status = 1
    try:
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        # The interpreter ignores this signal; a module shall die of it like any program.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        status = _follow_order(channel, module, policy, gear, parent_pid)
    except BaseException:  # boundary: nothing may unwind into the host's code
        traceback.print_exc(limit=_TRACEBACK_FRAMES)
    finally:
        os._exit(status)


def _follow_order(
    channel: Channel, module: LoadedModule, policy: Policy, gear: Gear, parent_pid: int
) -> int:
    message = channel.receive((Go,))
    if message is None:
        return 1
    go, fds = message
    space = Workspace(
        [map_segment(fd) for fd in fds[: go.segments]],
        map_segment(fds[go.segments], writable=True),
    )
    pipe = fds[go.segments + 1 :]
    error_pipe = (pipe[0], pipe[1]) if len(pipe) == 2 else None
    os.chdir(go.scratch)
    tempfile.tempdir = go.scratch
    os.environ["TMPDIR"] = go.scratch
    confinement = Confinement(
        policy=policy,
        timeout_s=module.step.timeout_s,
        parent_pid=parent_pid,
        keep_fds=(channel.fileno(), *pipe),
        gear=gear,
        is_native=module.is_native,
    )
    climb(confinement, (*policy.skipped_rungs, *gear.absent))
    frame, status = _execute(go, module, space, error_pipe)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if frame is not None:
        # Without a channel there is no result, which the host will notice by itself.
        with contextlib.suppress(OSError):
            channel.send(frame)
    return status


def _execute(
    go: Go, module: LoadedModule, space: Workspace, error_pipe: ErrorPipe | None
) -> tuple[Frame | None, int]:
    """Return what to report and the exit status."""
    try:
        pipeline_id, refs = module.execute(go, space, error_pipe)
        done = ModuleDone(batch_id=go.batch_id, pipeline_id=pipeline_id, images=tuple(refs))
        encode_frame(done)
    except ModuleError as error:
        return _failed(error.code, error.reason), 1
    except FrameError as error:
        return _failed(Code.RESULT_INVALID, f"result cannot be reported: {error}"), 1
    except DippError as error:
        code = Code.RESULT_INVALID if error.code == Code.BATCH_INVALID else error.code
        return _failed(code, str(error)), 1
    except SystemExit as error:
        status = _exit_status(error)
        return (_raised(error, module.step.path), status) if status else (None, 0)
    except BaseException as error:  # boundary: any failure of a module is a value
        with contextlib.suppress(OSError, ValueError, MemoryError):
            traceback.print_exception(error, limit=-_TRACEBACK_FRAMES)
        return _raised(error, module.step.path), 1
    return done, 0


def _failed(code: int, reason: str) -> ModuleFailed:
    text = clip(reason, REASON_LIMIT_BYTES)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text or f'gave up with code {code}'}\n")
    return ModuleFailed(code=code, reason=text)


def _raised(error: BaseException, path: str) -> ModuleRaised:
    lines = [at for frame, at in traceback.walk_tb(error.__traceback__) if _file(frame) == path]
    return ModuleRaised(
        exception=clip(type(error).__name__, 64),
        line=lines[-1] if lines else 0,
        reason=clip(str(error), REASON_LIMIT_BYTES),
    )


def _file(frame: object) -> str:
    code = getattr(frame, "f_code", None)
    return str(getattr(code, "co_filename", ""))


def _exit_status(error: SystemExit) -> int:
    """Return what the interpreter would exit with."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1
