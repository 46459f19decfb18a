"""Authenticate payloads with the CSP HMAC: SHA-1, first four bytes, as a trailer.

Source: csp.md 7. Four bytes stop accidents and the curious, not a determined attacker, and there
is no replay counter; that is what the wire format has. `csp.guard` adds one.
"""

from __future__ import annotations

import hashlib
import hmac as _hmac

from csp.errors import DecodeError

HMAC_BYTES = 4
KEY_BYTES = 16


def derive_key(passphrase: str) -> bytes:
    """Return the key for a passphrase: the first 16 bytes of its SHA-1."""
    return hashlib.sha1(passphrase.encode()).digest()[:KEY_BYTES]


def append_hmac(payload: bytes, key: bytes) -> bytes:
    """Return the payload with its four authentication bytes behind it."""
    return payload + _hmac.digest(key, payload, "sha1")[:HMAC_BYTES]


def strip_hmac(payload: bytes, key: bytes) -> bytes:
    """Return the payload without its authentication bytes. Raises DecodeError if they are wrong."""
    if len(payload) < HMAC_BYTES:
        raise DecodeError("no room for the HMAC", expected=HMAC_BYTES, actual=len(payload))
    body = payload[:-HMAC_BYTES]
    if not _hmac.compare_digest(payload[-HMAC_BYTES:], _hmac.digest(key, body, "sha1")[:4]):
        raise DecodeError("HMAC mismatch", offset=len(body))
    return body
