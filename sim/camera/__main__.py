"""`python -m sim.camera`."""

import sys

from sim.camera.cli import main

sys.exit(main())
