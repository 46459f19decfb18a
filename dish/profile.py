"""State the limits of a node: how many slots, instructions, runs, and how long things may take."""

from __future__ import annotations

from dataclasses import dataclass

from dish.errors import MisuseError


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The build-time limits of a flight node as values. Source: dish.md 1.

    Slots below `reserved` are for native procedures. `is_static` is the static store: an empty
    procedure does not occupy its slot. `buffer_bytes` is a CSP buffer, payload and checksum.
    `heap_bytes` 0 means that memory is not accounted for.
    """

    name: str
    max_instructions: int = 255
    max_slot: int = 255
    reserved: int = 0
    max_runs: int = 16
    max_depth: int = 1000
    poll_s: float = 0.25
    block_timeout_s: float = 5000.0
    remote_timeout_s: float = 1.0
    buffer_bytes: int = 256
    is_static: bool = False
    heap_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_slot <= 255 or not 0 <= self.reserved <= self.max_slot + 1:
            raise MisuseError(f"slots 0..{self.max_slot} with {self.reserved} reserved")
        if not 1 <= self.max_instructions <= 255 or self.max_runs < 1:
            raise MisuseError("a profile needs 1..255 instructions and at least one run")


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(name="default"),
        Profile(
            name="m7",
            max_instructions=50,
            max_slot=50,
            reserved=25,
            is_static=True,
            # configTOTAL_HEAP_SIZE of the board (dish.md 10).
            heap_bytes=61_440,
        ),
    )
}
