"""Make `twin` and `replaying` importable: pytest imports tests by file, not by folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
