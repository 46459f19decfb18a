"""Find out what a module declares: `python -m dipp.runner.describe FILE` prints JSON.

A program of its own, because reading a manifest means executing the file. Exit status 1 and a
reason on standard error if it cannot be loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dipp.errors import Code, ContentError
from dipp.manifest import REQUIRED, Manifest, Param
from dipp.runner.loader import execute_source, read_module
from dipp.runner.values import ModuleStep

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A manifest as seen from outside, with all that is wrong with it; None = there is none."""

    manifest: Manifest | None
    has_run: bool
    problems: tuple[str, ...] = ()


def describe_module(path: Path) -> Description:
    """Load a Python module in a process of its own. Raises ContentError (604)."""
    command = [sys.executable, "-m", "dipp.runner.describe", str(path.resolve())]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=root, check=False
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise ContentError(reason[0], Code.LOAD_CRASHED)
        # The last line: the module may have printed while it was loaded.
        fields = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise ContentError(f"{path}: {error}", Code.LOAD_CRASHED) from error
    manifest = _from_json(fields["manifest"]) if fields["manifest"] else None
    return Description(
        manifest=manifest, has_run=fields["has_run"], problems=tuple(fields["problems"])
    )


def _from_json(fields: dict[str, Any]) -> Manifest:
    return Manifest(
        name=fields["name"],
        version=fields["version"],
        summary=fields["summary"],
        params=tuple(Param(**param) for param in fields["params"]),
        adds=tuple((key, kind, text) for key, kind, text in fields["adds"]),
        errors={int(number): text for number, text in fields["errors"].items()},
        abi=fields["abi"],
    )


def _to_json(manifest: Manifest) -> dict[str, Any]:
    # A required parameter is one without a default.
    params = [
        {key: value for key, value in asdict(param).items() if value is not REQUIRED}
        for param in manifest.params
    ]
    return {**asdict(manifest), "params": params, "errors": dict(manifest.errors)}


def main(argv: list[str]) -> int:
    """Print the description of a module file."""
    path = Path(argv[0])
    step = ModuleStep(index=0, name=path.stem, path=str(path))
    try:
        module = execute_source(step, read_module(str(path)))
    except ContentError as error:
        print(error, file=sys.stderr)
        return 1
    found = getattr(module, "MANIFEST", None)
    manifest = found if isinstance(found, Manifest) else None
    fields = {
        "manifest": _to_json(manifest) if manifest else None,
        "has_run": callable(getattr(module, "run", None)),
        "problems": manifest.problems() if manifest else [],
    }
    print(json.dumps(fields))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
