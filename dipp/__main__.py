"""`python -m dipp` is the command `dipp`."""

from __future__ import annotations

import sys

from dipp.cli import main

sys.exit(main())
