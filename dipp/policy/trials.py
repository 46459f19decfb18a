"""Which uplinked files have still to prove themselves. Pure; the record survives restarts.

Theory of operation: a version that becomes active and has never worked is on trial. Its first
success proves it for good; so many failed batches before that, and it has failed and should be
replaced by the version before it. A failed version is never what a rollback returns to, so two bad
versions cannot take turns; put in place again by the operator, it gets a new trial.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from dipp.errors import ContentError

# As many names as the file store takes; active, previous, shipped and one that was replaced.
_NAMES_LIMIT, _VERSIONS_LIMIT = 256, 4


class Trust(Enum):
    """What is known about a version."""

    TRIAL = "trial"
    PROVEN = "proven"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a file, by its SHA-256 in hexadecimal. `failures` counts batches."""

    name: str
    sha256: str
    trust: Trust = Trust.TRIAL
    failures: int = 0


class Trials:
    """The versions that were active at some time."""

    def __init__(self, versions: Mapping[str, Mapping[str, Version]] | None = None) -> None:
        self._versions = {name: dict(found) for name, found in (versions or {}).items()}

    def get(self, name: str, sha256: str) -> Version | None:
        """Return what is known about a version."""
        return self._versions.get(name, {}).get(sha256)

    def on_trial(self) -> Iterator[Version]:
        """Yield the versions that have still to prove themselves."""
        for found in self._versions.values():
            yield from (each for each in found.values() if each.trust is Trust.TRIAL)

    def activated(self, name: str, sha256: str) -> bool:
        """Note that a version became active; say whether that changed anything.

        An unknown or failed one is on trial from now on.
        """
        before = dict(self._versions.get(name, {}))
        known = before.get(sha256)
        if known is None or known.trust is Trust.FAILED:
            self._put(Version(name=name, sha256=sha256))
        return before != self._versions.get(name, {})

    def trust(self, name: str, sha256: str) -> None:
        """Take a version as proven: it was active before trials were kept."""
        self._put(Version(name=name, sha256=sha256, trust=Trust.PROVEN))

    def succeeded(self, name: str, sha256: str) -> bool:
        """Count a success; say whether it ended a trial."""
        known = self.get(name, sha256)
        if known is None or known.trust is not Trust.TRIAL:
            return False
        self._put(replace(known, trust=Trust.PROVEN))
        return True

    def failed(self, name: str, sha256: str, limit: int) -> bool:
        """Count a failed batch of a version on trial; say whether it has failed its trial.

        A limit of 0 means that nothing ever does.
        """
        known = self.get(name, sha256)
        if known is None or known.trust is not Trust.TRIAL:
            return False
        failures = known.failures + 1
        is_over = 0 < limit <= failures
        trust = Trust.FAILED if is_over else Trust.TRIAL
        self._put(replace(known, failures=failures, trust=trust))
        return is_over

    def _put(self, version: Version) -> None:
        found = self._versions.pop(version.name, {})
        found.pop(version.sha256, None)
        found[version.sha256] = version
        while len(found) > _VERSIONS_LIMIT:
            found.pop(next(iter(found)))
        self._versions[version.name] = found
        while len(self._versions) > _NAMES_LIMIT:
            self._versions.pop(next(iter(self._versions)))

    def encode(self) -> bytes:
        """Return the record."""
        rows = [
            [each.name, each.sha256, each.trust.value, each.failures]
            for found in self._versions.values()
            for each in found.values()
        ]
        return json.dumps({"versions": rows}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Trials:
        """Parse a record. Raises ContentError."""
        trials = cls()
        try:
            for name, sha256, trust, failures in json.loads(data)["versions"]:
                if not (isinstance(name, str) and isinstance(sha256, str)):
                    raise ContentError(f"trials: {name!r} of {sha256!r} is no version")
                version = Version(
                    name=name, sha256=sha256, trust=Trust(trust), failures=int(failures)
                )
                trials._put(version)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ContentError(f"trials: {error}") from error
        return trials
