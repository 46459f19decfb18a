"""Take every free descriptor away from this process for a while: a real shortage, no mock."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let every call that needs a new descriptor fail with EMFILE, in C libraries too.

    What is closed meanwhile cannot be used again either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Only the numbers of the standard streams, which are in use; what is open stays open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
