"""The way of a batch through a host, without a batch and without children.

Driver; runs in the host. What a process has not done for a while is no longer in the caches, and
what it does for the first time since it forked makes it copy pages: the first batch after a pause
would pay for both. So the host takes a batch of one byte along the same way, through the same code;
in the place of the children somebody answers at once. Nothing is forked or killed, and no memory
of a real batch is touched. Source: performance.md 2.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Sequence

from dipp.batch import encode_batch, split_blocks
from dipp.metadata import Metadata
from dipp.runner.arena import ArenaPool
from dipp.runner.birth import Birth
from dipp.runner.chain import ChainRunner
from dipp.runner.channel import Channel, close_fds, receive_fds
from dipp.runner.execution import Execution
from dipp.runner.frames import Go, RunBatch
from dipp.runner.hotframes import encode_done, encode_forwarded
from dipp.runner.loader import ErrorPipe, LoadedModule
from dipp.runner.outcome import ref_of
from dipp.runner.values import ModuleStep
from dipp.runner.wait import ForkWatch
from dipp.runner.warm import own_parts, touch
from dipp.sandbox.gear import User
from dipp.workspace import ImageRef, SegmentRange, Workspace

# One that hands its batch on and one that has copied it.
_STAGES = 2
_TIMEOUT_S = 1.0


class Rehearsal:
    """A chain of modules that do nothing. `close` gives the descriptors back."""

    def __init__(self, arenas: ArenaPool, forks: ForkWatch) -> None:
        """Make what is needed, which is used again every time. Raises OSError."""
        image = encode_batch([(Metadata(width=1, height=1, channels=1, bits_pixel=8), b"\0")])
        (block,) = split_blocks(image, 1, len(image))
        self._ref = ref_of(block)
        self._order = RunBatch(batch_id=0, images=(self._ref,))
        self._executions: list[_Echo] = []
        self._parts = own_parts()
        self._node, self._host = Channel.pair()
        self._input_fd = os.memfd_create("dipp-rehearsal", os.MFD_CLOEXEC)
        try:
            os.write(self._input_fd, image)
            for position in range(_STAGES):
                self._executions.append(_Echo(self._answer(position)))
        except OSError:
            self.close()
            raise
        self._runner = ChainRunner(
            _Crew(arenas, _CalmWatch(forks)), _Reserve(self._executions), lambda position: None
        )

    def _answer(self, position: int) -> bytes:
        """Return what a module says that hands its batch on, or that has copied it."""
        if position == 0:
            return encode_forwarded(0)
        copy = ImageRef(self._ref.meta, SegmentRange(1, 0, self._ref.pixels.length))
        return encode_done(0, 0, (copy,))

    def run_first(self) -> None:
        """Do it for the first time since this process has forked."""
        touch(self._parts)
        self.run()

    def run(self) -> None:
        """Do it. Raises OSError where something is used up."""
        self._node.send(self._order, [self._input_fd])
        message = self._host.receive((RunBatch,))
        if message is None:
            return
        order, fds = message
        try:
            self._runner.go_through(order, 0, fds[0])
        finally:
            close_fds(fds)
            for execution in self._executions:
                execution.reset()

    def close(self) -> None:
        """Give the descriptors back."""
        for execution in self._executions:
            execution.close()
        self._node.close()
        self._host.close()
        os.close(self._input_fd)


class _Echo(Execution):
    """No process: what an `Execution` does on the way of a batch, answered at once."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._theirs: Channel
        self._receiving: socket.socket
        # Any descriptor on which nothing ever hangs up.
        self._quiet_fd, self._other_fd = os.pipe2(os.O_CLOEXEC)
        super().__init__(_Nothing(), _BIRTH, self._quiet_fd, _Nobody())
        try:
            self.adopt()
        except OSError:
            self.close()
            raise

    def _ask(self, theirs: Channel, receiving: socket.socket, log_fd: int) -> None:
        self._theirs, self._receiving, self._log_write_fd = theirs, receiving, log_fd

    def order(self, go: bytes, fds: Sequence[int]) -> None:
        """Take it as a child would, and answer."""
        super().order(go, fds)
        self._theirs.receive_encoded()
        if fds:
            close_fds(receive_fds(self._receiving)[1])
        self._theirs.send_encoded(self._answer)

    def kill(self) -> None:
        """There is no process but our own."""

    def await_death(self) -> None:
        """There is no process but our own."""

    def bury(self) -> None:
        """There is no process but our own."""

    def close(self) -> None:
        """Give all descriptors back."""
        super().close()
        self._theirs.close()
        self._receiving.close()
        close_fds([self._log_write_fd, self._quiet_fd, self._other_fd])


class _Reserve:
    """Has one for every stage, always."""

    def __init__(self, executions: Sequence[Execution]) -> None:
        self._executions = executions

    def take(self, position: int) -> Execution | None:
        return self._executions[position]

    def next_up(self, position: int) -> Execution | None:
        return self._executions[position]

    def prepare(self, position: int) -> None:
        """Nothing is missing."""

    def arrive(self) -> None:
        """Nobody is expected."""

    def mourn(self, position: int, execution: Execution) -> None:
        """Nobody dies."""

    def pids(self) -> set[int]:
        return set()


class _CalmWatch(ForkWatch):
    """Looks as the real one does, and is never alarmed: nobody here is to be swept away."""

    def __init__(self, real: ForkWatch) -> None:
        self._real = real

    @property
    def can_tell(self) -> bool:
        """Say what the real one says."""
        return self._real.can_tell

    @property
    def is_quiet(self) -> bool:
        """Look as the real one does, because it is the way of a batch, and be calm about it."""
        _ = self._real.is_quiet
        return True


class _Crew:
    """Is never asked for more."""

    def __init__(self, arenas: ArenaPool, forks: ForkWatch) -> None:
        self.modules: Sequence[LoadedModule] = [_Nothing()] * _STAGES
        self.arenas = arenas
        self.forks = forks
        self.recent_bytes = 0
        self.user: User | None = None
        self.is_filtered = True
        self.staff: Collection[int] = ()

    def spawn(self, position: int) -> Execution:
        raise OSError(f"a rehearsal has no child for stage {position}")

    def take_back(self, directory: str) -> None:
        """There is none."""


class _Nothing:
    """In the place of a module."""

    is_native = False

    def __init__(self) -> None:
        self.step = ModuleStep(index=1, name="rehearsal", path="", timeout_s=_TIMEOUT_S)

    def execute(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef] | None]:
        return go.pipeline_id, None

    rehearse = execute

    def rehearse_fully(self) -> None:
        """There is nothing."""


_BIRTH = Birth(
    position=0,
    own=0,
    before=0,
    own_bytes=0,
    before_bytes=0,
    scratch_bytes=0,
    recent_bytes=0,
    process_limit=None,
    directory="",
)


class _Nobody:
    """Forks nobody; in the place of a child stands this process."""

    def request(self, birth: Birth, fds: Sequence[int]) -> None:
        """Do nothing."""

    def answer(self) -> int:
        """Return our own number."""
        return os.getpid()
