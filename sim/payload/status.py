"""`payload status`: one page of what every node of a payload says of itself."""

from __future__ import annotations

import argparse
import json
import time

from csp.errors import CspError
from csp.links.options import HubAddress
from csp.param.types import Value
from csp.shell.session import Session
from dipp.errors import describe, split_status
from sim import config
from sim.payload import up

# Node, then what is worth a line of an operator's screen.
_SHOWN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("eps", ("battery_percent", "battery_voltage", "solar_w", "load_w", "sunlight")),
    ("gnss", ("gnss_unix", "gnss_lat", "gnss_lon", "gnss_alt", "gnss_fix")),
    ("a53", ("a53_status", "a53_temp", "wake_count", "suspend_count")),
    ("dish", ("proc_running", "proc_completed", "proc_failed", "proc_last_error")),
    ("dipp", ("pipeline_run", "log_status", "queue_depth", "batches_taken", "batches_delivered",
              "batches_quarantined", "batches_dropped", "images_delivered", "ring_count")),
    ("camera", ("busy", "images_total", "batches_sent", "error_log")),
    ("radio", ("obs_count", "obs_stored_bytes", "mirror_waiting")),
    ("link", ("link_open", "elevation", "up_bytes", "down_bytes")),
)  # fmt: skip
_TIMEOUT_S = 1.5
_OPERATOR = 22

Page = dict[str, dict[str, Value] | None]


def show(options: argparse.Namespace) -> int:
    """Print the page, once or again and again. Returns 0, or 1 if no node answered."""
    hub = HubAddress.parse(options.hub)
    numbers = config.load(options.config).nodes.names()
    with up.session_on(hub, _OPERATOR, timeout_s=_TIMEOUT_S) as session:
        while True:
            page = read_page(session, numbers)
            print(json.dumps(page, default=str) if options.json else format_page(page), flush=True)
            if not options.watch:
                return 0 if any(values is not None for values in page.values()) else 1
            time.sleep(options.watch)


def read_page(session: Session, numbers: dict[str, int]) -> Page:
    """Pull what is shown of each node; None for one that does not answer."""
    page: Page = {}
    for node, names in _SHOWN:
        task = session.scheduler.spawn(
            session.remote.get_many(numbers[node], [(name, None) for name in names])
        )
        try:
            found = session.loop.run_until(task, 5 * _TIMEOUT_S)
        except CspError:
            page[node] = None
            continue
        page[node] = dict(zip(names, found, strict=True))
    return page


def format_page(page: Page) -> str:
    """Lay the page out for a terminal of 80 columns."""
    lines = [time.strftime("payload at %H:%M:%S")]
    for node, values in page.items():
        if values is None:
            lines.append(f"{node:<7} no answer (asleep with the A53, or not there)")
            continue
        words = [
            f"{name.removeprefix(node + '_')} {_text(value)}" for name, value in values.items()
        ]
        lines += _wrapped(f"{node:<7} ", words)
        status = values.get("log_status")
        if isinstance(status, int) and status:
            lines.append(f"        {split_status(status)}: {describe(split_status(status).code)}")
    return "\n".join(lines)


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) or '""'


def _wrapped(head: str, words: list[str]) -> list[str]:
    lines, line = [], head
    for word in words:
        if len(line) + len(word) > 78 and line.strip():
            lines.append(line.rstrip())
            line = " " * len(head)
        line += word + "   "
    return [*lines, line.rstrip()]
