"""Sign and check what is uplinked: Ed25519 over a statement that says what the bytes are for. Pure.

Theory of operation: nobody signs bare bytes. A statement names its purpose, what the bytes shall
replace, and a counter, so a signature for one file, slot or node is worth nothing for another. The
counter makes an old signature useless once a newer one was accepted (`csp.files.signatures`,
`dipp.signedslot`). A seal is what travels: counter and signature. Which key made it is not said:
there are few, and all are tried. The keys are the raw 32 bytes of RFC 8032.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from csp.errors import DecodeError, MisuseError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
# Each is tried for each signature, a tenth of a millisecond each.
MAX_KEYS = 16
_SEAL = struct.Struct(f"<I{SIGNATURE_BYTES}s")
SEAL_BYTES = _SEAL.size
COUNTER_MAX = 0xFFFFFFFF
_FILE_PURPOSE = b"payload file 1\0"
_COUNTER = struct.Struct("<I")
_NO_LIBRARY = (
    "signatures need the package `cryptography`, which is not installed here: "
    "pip install 'cubesat-payload[sign]'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A signature and the counter it covers."""

    counter: int
    signature: bytes

    def encode(self) -> bytes:
        """Return the bytes that travel."""
        return _SEAL.pack(self.counter, self.signature)


def decode_seal(data: bytes) -> Seal:
    """Parse a seal. Raises DecodeError unless there are exactly its bytes."""
    if len(data) != SEAL_BYTES:
        raise DecodeError("not a seal", expected=SEAL_BYTES, actual=len(data))
    counter, signature = _SEAL.unpack(data)
    return Seal(counter=counter, signature=signature)


def file_statement(name: str, sha256: bytes, counter: int) -> bytes:
    """Return what is signed for a file: its name on board, its content, its counter."""
    return _FILE_PURPOSE + _COUNTER.pack(counter) + sha256 + name.encode()


def fingerprint(public_key: bytes) -> str:
    """Return the short name of a public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class Trust:
    """The public keys whose signatures count. No key at all means that no signature does."""

    def __init__(self, public_keys: Sequence[bytes]) -> None:
        """Raises MisuseError if a key is none, there are too many, or the library is missing."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise MisuseError(_NO_LIBRARY) from error
        if len(public_keys) > MAX_KEYS:
            raise MisuseError(f"{len(public_keys)} keys, at most {MAX_KEYS} are allowed")
        self._invalid = InvalidSignature
        try:
            self._keys = [Ed25519PublicKey.from_public_bytes(key) for key in public_keys]
        except ValueError as error:
            raise MisuseError(f"not an Ed25519 public key: {error}") from error

    def __len__(self) -> int:
        return len(self._keys)

    def is_signed(self, statement: bytes, signature: bytes) -> bool:
        """Say whether one of the keys made this signature of the statement."""
        for key in self._keys:
            try:
                key.verify(signature, statement)
            except self._invalid:
                continue
            return True
        return False


class Signer:
    """A private key, as 32 bytes. Belongs to the ground; a node has none."""

    def __init__(self, private_key: bytes) -> None:
        """Raises MisuseError if it is no key or the library is missing."""
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as error:
            raise MisuseError(_NO_LIBRARY) from error
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        except ValueError as error:
            raise MisuseError(f"not an Ed25519 private key: {error}") from error

    @property
    def public_key(self) -> bytes:
        """The key that checks what this one signs."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, statement: bytes) -> bytes:
        """Return the signature of a statement."""
        return self._key.sign(statement)

    def seal_file(self, name: str, content: bytes, counter: int) -> Seal:
        """Return the seal of a file. Raises MisuseError if the counter is none."""
        check_counter(counter)
        sha256 = hashlib.sha256(content).digest()
        return Seal(counter=counter, signature=self.sign(file_statement(name, sha256, counter)))


def check_counter(counter: int) -> None:
    """Raise MisuseError for a counter that does not fit its field; 0 is before the first."""
    if not 0 < counter <= COUNTER_MAX:
        raise MisuseError(f"counter {counter} is outside 1..{COUNTER_MAX}")
