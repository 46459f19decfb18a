"""The values the process tree works on: chains, policies, stage figures, crash records.

Pure. Source: design.md 2, dipp.md 10.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dipp.errors import ContentError
from dipp.manifest import ParamValue

# One parameter packet holds a data value of 188 bytes; a crash record must stay below it.
CRASH_RECORD_LIMIT_BYTES = 187
_CRASH = struct.Struct("<BHBBBBHIIIQ8sBQ")
_CRASH_VERSION = 2
_NAME_BYTES, _EXCEPTION_BYTES, _LOG_BYTES = 32, 32, 72


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStep:
    """One module of a chain. `index` is its 1-based position, `sha256` empty means unchecked.

    `timeout_s` must be positive; `path` ends in .py or .so.
    """

    index: int
    name: str
    path: str
    sha256: str = ""
    params: tuple[tuple[str, ParamValue], ...] = ()
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One configuration version of one pipeline. Equal chains share a host."""

    pipeline_id: int
    generation: int
    steps: tuple[ModuleStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a module may use. `memory_bytes` is private memory beyond what its host has loaded.

    `processes` counts threads too. `user` is whom modules run as if the node is root; empty means
    whoever the node is. `standby` children per module are kept ready while their private memory
    stays below `standby_bytes`; 0 forks on demand. Of the memory of batches a host keeps
    `keep_bytes` for the next one, in huge pages if `huge_pages` and the machine has them.
    """

    memory_bytes: int = 512 << 20
    arena_bytes: int = 256 << 20
    file_bytes: int = 64 << 20
    open_files: int = 128
    processes: int = 64
    user: str = ""
    skipped_rungs: tuple[str, ...] = ()
    standby: int = 1
    standby_bytes: int = 96 << 20
    keep_bytes: int = 48 << 20
    huge_pages: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStats:
    """What one module execution cost. `pid` is the child's number as /proc shows it."""

    name: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_kb: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    pid: int = 0
    orphans: int = 0
    leaked_segments: int = 0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashRecord:
    """Why a batch failed, small enough for one data parameter.

    `module` is the 1-based position, 0 when no module is at fault. `signal` and `exit_status` are
    0 when they do not apply. `line` and `exception` are Python's, where known. `fault_address` is
    what was touched when a signal tells of a fault, None if unknown.
    """

    code: int
    pipeline: int = 0
    module: int = 0
    name: str = ""
    signal: int = 0
    exit_status: int = 0
    exception: str = ""
    line: int = 0
    peak_rss_kb: int = 0
    cpu_ms: int = 0
    wall_ms: int = 0
    batch_id: int = 0
    module_hash: bytes = b""
    last_log: str = ""
    fault_address: int | None = None

    def encode(self) -> bytes:
        """Return at most 187 bytes; numbers are clamped and texts clipped to what fits."""
        head = _CRASH.pack(
            _CRASH_VERSION,
            _clamp(self.code, 16),
            _clamp(self.pipeline, 8),
            _clamp(self.module, 8),
            _clamp(self.signal, 8),
            _clamp(self.exit_status, 8),
            _clamp(self.line, 16),
            _clamp(self.peak_rss_kb, 32),
            _clamp(self.cpu_ms, 32),
            _clamp(self.wall_ms, 32),
            self.batch_id & 0xFFFFFFFFFFFFFFFF,
            self.module_hash[:8],
            self.fault_address is not None,
            (self.fault_address or 0) & 0xFFFFFFFFFFFFFFFF,
        )
        texts = (
            (self.name, _NAME_BYTES),
            (self.exception, _EXCEPTION_BYTES),
            (self.last_log, _LOG_BYTES),
        )
        return head + b"".join(_short_text(text, limit) for text, limit in texts)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> CrashRecord:
        """Parse an encoded record; trailing zeros are padding. Raises ContentError."""
        raw = bytes(data)
        if len(raw) < _CRASH.size or raw[0] != _CRASH_VERSION:
            raise ContentError(f"crash record of {len(raw)} bytes, first {raw[:1]!r}")
        _, code, pipeline, module, signal, status, line, rss, cpu, wall, batch, digest, *fault = (
            _CRASH.unpack_from(raw)
        )
        texts, offset = [], _CRASH.size
        for limit in (_NAME_BYTES, _EXCEPTION_BYTES, _LOG_BYTES):
            text, offset = _read_text(raw, offset, limit)
            texts.append(text)
        if any(raw[offset:]):
            raise ContentError(f"crash record: bytes after its end at {offset}")
        return cls(
            code=code,
            pipeline=pipeline,
            module=module,
            name=texts[0],
            signal=signal,
            exit_status=status,
            exception=texts[1],
            line=line,
            peak_rss_kb=rss,
            cpu_ms=cpu,
            wall_ms=wall,
            batch_id=batch,
            module_hash=digest.rstrip(b"\0"),
            last_log=texts[2],
            fault_address=fault[1] if fault[0] else None,
        )


def clip(text: str, limit_bytes: int) -> str:
    """Return the text escaped to printable characters, at most `limit_bytes` long in UTF-8."""
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: limit_bytes * 2])
    return safe.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def _clamp(value: int, bits: int) -> int:
    return int(min(max(value, 0), (1 << bits) - 1))


def _short_text(text: str, limit: int) -> bytes:
    data = clip(text, limit).encode()
    return bytes([len(data)]) + data


def _read_text(raw: bytes, offset: int, limit: int) -> tuple[str, int]:
    length = raw[offset] if offset < len(raw) else limit + 1
    end = offset + 1 + length
    if length > limit or end > len(raw):
        raise ContentError(f"crash record: text at {offset} does not end within it")
    try:
        return raw[offset + 1 : end].decode(), end
    except UnicodeDecodeError as error:
        raise ContentError(f"crash record: text at {offset}: {error}") from error
