"""Fixtures that every test may use."""

from __future__ import annotations

import os

# Several test processes share two cores: one thread each keeps timings meaningful.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
