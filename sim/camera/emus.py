"""The imaging spectrograph EMUS: each image of a capture is a swath of a shipped observation.

The observations are synthetic files in the layout of EMM/EMUS Level 2B (sim/scenes/README.md). The
instrument flies round Mars and this satellite round the Earth; what is emulated is the way of its
data through the payload, not where they come from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dipp.errors import DippError
from dipp.inputs import group_inputs, source_of
from dipp.metadata import Metadata
from sim.camera.capture import CameraError, RequestError

Planes = npt.NDArray[np.float32]


class SwathStore:
    """The observations in a folder, in the order of their time."""

    def __init__(self, folder: Path) -> None:
        self._observations = group_inputs(sorted(folder.glob("*.fits.gz")))

    def take(
        self, number: int, index: int, *, obid: int, timestamp: int
    ) -> tuple[Metadata, Planes]:
        """Return swath `index` of observation 1..n; 0 goes through all with the observation id.

        Time and observation id are those of the capture, the orbit of the file becomes an item.
        Raises RequestError (200).
        """
        if not self._observations or number > len(self._observations):
            raise RequestError(CameraError.CAPTURE, f"there is no EMUS observation {number}")
        swaths = self._observations[(number or obid) % len(self._observations) - 1]
        if index >= len(swaths):
            raise RequestError(
                CameraError.CAPTURE, f"this EMUS observation has {len(swaths)} swaths"
            )
        path = swaths[index]
        source = source_of(path)
        if source is None:
            raise RequestError(CameraError.CAPTURE, f"nothing here reads {path.name}")
        try:
            metadata, data = source.load(path)
        except (ValueError, OSError, DippError) as error:
            raise RequestError(CameraError.CAPTURE, f"{path.name}: {error}") from error
        shape = (metadata.height, metadata.width, metadata.channels)
        planes: Planes = np.frombuffer(data, "<f4").reshape(shape)
        items = (*metadata.items, ("orbit", metadata.obid))
        return replace(metadata, obid=obid, timestamp=timestamp, items=items), planes
