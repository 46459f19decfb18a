"""Regenerate dipp/pb from proto/ with the pinned grpcio-tools. Source: dependencies.md 5."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(output: Path) -> None:
    """Compile every proto file into `output`. Raises RuntimeError with protoc's exit status."""
    from grpc_tools import protoc

    sources = sorted(str(path) for path in (ROOT / "proto").glob("*.proto"))
    flags = [f"-I{ROOT / 'proto'}", f"--python_out={output}", f"--pyi_out={output}"]
    status = protoc.main(["protoc", *flags, *sources])
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}")


def main() -> int:
    """Write the generated files into the source tree."""
    generate(ROOT / "dipp" / "pb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
