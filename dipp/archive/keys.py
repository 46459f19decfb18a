"""What names a result: the inputs of a unit, the chain, and the safe file names made of them.

Theory of operation: a result is named by a hash of the chain and of the name and content of every
input file, so running again is harmless wherever it happens, and a changed module, model or
parameter makes new names. The place of a file is not in it: a moved archive keeps its results. The
base name is, because formats read facts out of it (the orbit of a swath). Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Changed when the meaning of a key or the layout of a result changes.
KEY_VERSION = 1
# Room for `-12.json` and what else is put behind it below the 255 bytes of a file system.
_STEM_LIMIT_BYTES = 120
_UNSAFE = re.compile(r"[^\w.+=@-]+")
RESULTS = "results/"
RECORD_NAME = "record.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file as it was listed. `stamp` changes when the content may have changed."""

    uri: str
    size_bytes: int
    stamp: str

    @property
    def name(self) -> str:
        """Return the base name."""
        return self.uri.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Files that make one batch together: the unit of work. Not empty."""

    inputs: tuple[Input, ...]

    @property
    def uris(self) -> tuple[str, ...]:
        """Return where the files lie, in order: what tells a unit from others."""
        return tuple(each.uri for each in self.inputs)

    @property
    def name(self) -> str:
        """Return the name of the first file."""
        return self.inputs[0].name


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def result_key(chain: str, shape: str, files: Sequence[tuple[str, str]]) -> str:
    """Name the result of a chain for (base name, SHA-256) pairs.

    `shape` says how raw frames are read; it counts only where there is one.
    """
    is_raw = any(name.endswith(".raw") for name, _ in files)
    return digest_of([KEY_VERSION, chain, shape if is_raw else "", [list(file) for file in files]])


def result_place(key: str) -> str:
    """Return the directory of a result; spread, because file systems and people like that."""
    return f"{RESULTS}{key[:2]}/{key}"


def record_place(key: str) -> str:
    """Return where the record of a result is: the result exists if this does."""
    return f"{result_place(key)}/{RECORD_NAME}"


def key_of_place(name: str) -> str:
    """Return the key of a file below `results/`, empty if it belongs to no result."""
    words = name.split("/")
    return words[2] if len(words) == 4 and words[0] + "/" == RESULTS else ""


def safe_stem(name: str) -> str:
    """Make a file name without suffix that is harmless in every shell, store and page."""
    stem = name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    text = _UNSAFE.sub("_", stem.encode("utf-8", "replace").decode()).lstrip(".-")
    text = text.encode()[:_STEM_LIMIT_BYTES].decode(errors="ignore")
    # `record.json` of a picture called record would replace ours.
    return f"{text}_" if text in ("", "record") else text
