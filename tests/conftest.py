"""Settings and fixtures for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Several test processes share two cores: one thread each keeps timings meaningful.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does; speed is measured in bench/.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
