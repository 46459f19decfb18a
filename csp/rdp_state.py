"""Name the states of an RDP connection and the ways it can end. Pure."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a connection is in its life."""

    SYN_SENT = "syn sent"
    SYN_RCVD = "syn received"
    OPEN = "open"
    CLOSE_WAIT = "close wait"
    CLOSED = "closed"


class End(Enum):
    """Why a connection is closed."""

    LOCAL = "closed here"
    PEER = "closed by the peer"
    REFUSED = "refused by the peer"
    ABORTED = "given up by the peer"
    TIMEOUT = "peer silent"
    RECLAIMED = "dropped in favour of a newer one"
