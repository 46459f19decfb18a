"""Say how a run went, as a value that parameters, shell and logs are filled from. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dish.errors import RET_TEXT, Ret


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one run.

    `root` is the slot that was run, `slot` and `index` the instruction where it ended, `executed`
    the instructions it executed (the last known figure if the process was killed).
    """

    run_id: int
    root: int
    ret: Ret
    slot: int
    index: int
    executed: int
    reason: str = ""
    wall_s: float = 0.0

    def __str__(self) -> str:
        """Return one line for an operator."""
        text = RET_TEXT[self.ret] + (f": {self.reason}" if self.reason else "")
        if self.ret is Ret.OK:
            return text
        return f"{self.slot}:{self.index} {text}"
