"""Run one ZMQ hub of an emulated payload on free ports and tell the launcher which."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from csp.hub import Hub


def main(argv: list[str]) -> int:
    """Serve until SIGTERM; `argv` is the file to write `{"sub": PORT, "pub": PORT}` to."""
    ports_file = Path(argv[0])
    # Blocked before the proxy thread exists, so that only `sigwait` ever sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with Hub() as hub:
        staged = ports_file.with_suffix(".new")
        staged.write_text(json.dumps({"sub": hub.sub_port, "pub": hub.pub_port}))
        os.replace(staged, ports_file)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
