"""Keys in files: the public ones a node trusts, the private one of an operator. Driver.

The files are PEM, as other tools write them. A node trusts every `NAME.pub` in its `keys` folder.
No folder means that nothing has to be signed; a folder without keys means that nothing is accepted,
so that removing the last key never opens the door. A key file that cannot be used stops the node:
silence would look like safety. Beside an operator's key lies `NAME.counter`, the last counter used.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from csp.errors import MisuseError
from csp.signing import Signer, Trust, check_counter, fingerprint

FOLDER = "keys"
PUBLIC_SUFFIX = ".pub"
# Set for a shell session: the key it signs with, if an option does not name another.
KEY_VARIABLE = "PAYLOAD_KEY"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# A PEM of either kind has about 120 bytes.
_LIMIT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key and the file it is in."""

    path: Path
    raw: bytes

    @property
    def fingerprint(self) -> str:
        """The short name of the key."""
        return fingerprint(self.raw)


def trusted_keys(folder: Path) -> list[PublicKey] | None:
    """Return the keys in a folder, by name; None without a folder. Raises MisuseError."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(PUBLIC_SUFFIX))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MisuseError(f"cannot read the keys in {folder}: {error.strerror}") from error
    _refuse_writable(folder)
    return [read_public(folder / name) for name in names]


def load_trust(folder: Path) -> Trust | None:
    """Return whom a node trusts, None if nothing has to be signed. Raises MisuseError."""
    keys = trusted_keys(folder)
    return None if keys is None else Trust([key.raw for key in keys])


def read_public(path: Path) -> PublicKey:
    """Read a public key. Raises MisuseError, also if others may write the file."""
    # Says that the library is missing, rather than anything about the file.
    Trust(())
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    _refuse_writable(path)
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        raise MisuseError(f"{path} is not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise MisuseError(f"{path} is not an Ed25519 key")
    return PublicKey(path=path, raw=key.public_bytes_raw())


def generate(path: Path) -> PublicKey:
    """Make a key pair: the private key at the path, the public one in `PATH.pub`.

    Raises MisuseError if one of the files is there, OSError.
    """
    Trust(())
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    for each in (path, public_path):
        if each.exists():
            raise MisuseError(f"{each} exists; a key is never overwritten")
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    _create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _create(
        public_path, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644
    )
    return PublicKey(path=public_path, raw=public.public_bytes_raw())


def trust_key(path: Path, folder: Path) -> PublicKey:
    """Let a node trust a public key from its next start on.

    Raises MisuseError if the folder has a key of that name or the file is no key, OSError.
    """
    key = read_public(path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / path.name
    if path.suffix != PUBLIC_SUFFIX:
        raise MisuseError(f"{path.name} does not end in {PUBLIC_SUFFIX}")
    if target.exists():
        raise MisuseError(f"{target} exists; revoke it first")
    _create(target, _read(path), 0o600)
    return PublicKey(path=target, raw=key.raw)


def revoke_key(wanted: str, folder: Path) -> PublicKey:
    """Trust a key no longer, given by file name or fingerprint. Raises MisuseError, OSError."""
    for key in trusted_keys(folder) or ():
        if wanted in (key.path.name, key.fingerprint):
            key.path.unlink()
            return key
    raise MisuseError(f"no key {wanted!r} in {folder}")


class OperatorKey:
    """A private key in a file. Raises MisuseError if it cannot be used, or others may read it."""

    def __init__(self, path: Path) -> None:
        Trust(())
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = _read(path)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise MisuseError(f"{path} is open to others; chmod 600 it, or make a new key")
        try:
            key = load_pem_private_key(data, None)
        except (ValueError, TypeError) as error:
            raise MisuseError(f"{path} is not a PEM private key without password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise MisuseError(f"{path} is not an Ed25519 key")
        self.signer = Signer(key.private_bytes_raw())
        self._counter_path = path.with_name(path.name + ".counter")

    def next_counter(self) -> int:
        """Return a counter that was never used with this key, and remember it.

        It is the time in seconds, or one more than the last one, so that a key that was copied to
        another machine goes on where the first one is. Raises MisuseError, OSError.
        """
        last = 0
        if self._counter_path.exists():
            text = _read(self._counter_path).decode(errors="replace").strip()
            if not text.isdecimal():
                raise MisuseError(f"{self._counter_path} is damaged; it should hold one number")
            last = int(text)
        counter = max(int(time.time()), last + 1)
        check_counter(counter)
        new = self._counter_path.with_name(self._counter_path.name + ".new")
        new.unlink(missing_ok=True)
        _create(new, f"{counter}\n".encode(), 0o600)
        new.replace(self._counter_path)
        return counter


def operator_key(path: str | None) -> OperatorKey | None:
    """Return the key an option names, or the environment; None if neither does."""
    chosen = path or os.environ.get(KEY_VARIABLE)
    return OperatorKey(Path(chosen).expanduser()) if chosen else None


def _refuse_writable(path: Path) -> None:
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise MisuseError(f"{path} belongs to user {status.st_uid}, who could change it")
    if status.st_mode & _OTHERS_WRITE:
        raise MisuseError(f"{path} can be written by others, so it proves nothing; chmod go-w it")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT_BYTES)
    except OSError as error:
        raise MisuseError(f"cannot read {path}: {error.strerror}") from error


def _create(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
