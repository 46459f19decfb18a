"""Table 2: what an update costs on the uplink, as a module, compressed, as a change, or as a whole.

The whole is what would have to go up if the software were one piece: our packages with their
modules and models, without Python and the libraries. Seconds are those of an upload over an
emulated link of 9.6 kbit/s in virtual time: every packet, header and acknowledgement is sent.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import brotli

from bench.effort import Effort
from bench.figures import Figure, Section, Table
from csp.files.client import FilesClient
from csp.files.forms import Form, encode_form
from csp.files.server import FilesServer
from csp.files.store import FileStore
from csp.files.transfer import LinkBudget
from csp.testing import Faults, Network

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("csp", "dipp", "dish", "modules")
_MODULES = ("thumbnail.py", "demosaic.py", "jxl.py", "cloud_cover.py")
_MODEL = Path("modules/aurora/models/aurora_unet.tflite")
# Of a network that was trained a little further, so many of a thousand bytes are others.
_RETRAINED_PER_1000 = 10
_GROUND, _NODE = 20, 162
_RATE_BPS, _DELAY_S = 9600.0, 0.25
_LIMIT_S = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """Something to upload, and what is on board of it."""

    name: str
    content: bytes
    previous: bytes


def measure(effort: Effort) -> Section:
    """Weigh modules, a model and the whole, and upload them."""
    items = [*_items(effort), _model()]
    rows, modules = [], []
    for item in items:
        effort.say(item.name)
        sizes = {form: len(encode_form(form, item.content, item.previous)) for form in Form}
        fresh_s, change_s = _upload_s(item, is_known=False), _upload_s(item, is_known=True)
        rows.append((item.name, *_row(sizes), f"{fresh_s:.0f}", f"{change_s:.0f}"))
        modules.append((sizes, fresh_s, change_s))
    effort.say("the whole software")
    whole = whole_software()
    # Of the best quality it takes half a minute.
    packed = len(brotli.compress(whole, quality=effort.some(11, 5), lgwin=24))
    models = sum(path.stat().st_size for path in (_ROOT / "modules").rglob("*.tflite"))
    budget = LinkBudget(rate_bps=_RATE_BPS, delay_s=_DELAY_S)
    rows.append(("the whole, as a tar file", f"{len(whole):,}", f"{packed:,}", "",
                 f"{budget.seconds(packed):,.0f}", ""))  # fmt: skip
    sizes, fresh_s, change_s = modules[1]
    return Section(
        name="uplink",
        title="Table 2: the uplink of an update",
        figures=(
            _figure("uplink.module_bytes", sizes[Form.PLAIN], "bytes", "demosaic.py"),
            _figure("uplink.module_brotli_bytes", sizes[Form.BROTLI], "bytes",
                    "demosaic.py with brotli"),
            _figure("uplink.module_delta_bytes", sizes[Form.DELTA], "bytes",
                    "one line of demosaic.py changed, as a change"),
            _figure("uplink.whole_brotli_bytes", packed, "bytes", "the whole with brotli"),
            _figure("uplink.whole_over_module", packed / sizes[Form.BROTLI], "×",
                    "the whole over demosaic.py, both with brotli"),
            _figure("uplink.whole_over_delta", packed / sizes[Form.DELTA], "×",
                    "the whole over one changed line"),
            _figure("uplink.module_s", fresh_s, "s", "upload of demosaic.py at 9.6 kbit/s"),
            _figure("uplink.module_delta_s", change_s, "s",
                    "upload of one changed line of demosaic.py at 9.6 kbit/s"),
        ),
        tables=(
            Table(
                title=f"{_RATE_BPS / 1000:g} kbit/s, {_DELAY_S:g} s one way, no losses",
                head=("", "bytes", "brotli", "change", "s, new", "s, change"),
                rows=tuple(rows),
            ),
        ),
        notes=(
            ("change: one line edited, on board is the version before; of the model, one byte in a "
            "hundred differs. The seconds of the whole are calculated; "
                f"{models / 1e6:.1f} MB of it are models."),
        ),
    )  # fmt: skip


def whole_software() -> bytes:
    """Return our packages as a tar file without time stamps."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for package in _PACKAGES:
            for path in sorted((_ROOT / package).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    entry = tarfile.TarInfo(str(path.relative_to(_ROOT)))
                    entry.size = path.stat().st_size
                    archive.addfile(entry, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def _items(effort: Effort) -> Iterator[_Item]:
    for name in _MODULES[: effort.some(len(_MODULES), 2)]:
        content = (_ROOT / "modules" / name).read_bytes()
        lines = content.splitlines(keepends=True)
        # The version before: one line in the middle was another.
        middle = len(lines) // 2
        edited = (*lines[:middle], b"    # before\n", *lines[middle + 1 :])
        yield _Item(name=name, content=content, previous=b"".join(edited))


def _model() -> _Item:
    content = (_ROOT / _MODEL).read_bytes()
    previous = bytearray(content)
    rng = random.Random(1)
    for _ in range(len(content) * _RETRAINED_PER_1000 // 1000):
        previous[rng.randrange(len(content))] = rng.randrange(256)
    return _Item(name=_MODEL.name, content=content, previous=bytes(previous))


def _upload_s(item: _Item, *, is_known: bool) -> float:
    """Upload over the link in virtual time; return the seconds of it."""
    network = Network(faults=Faults(rate_bps=_RATE_BPS, delay_s=_DELAY_S))
    budget = LinkBudget(rate_bps=_RATE_BPS, delay_s=_DELAY_S)
    client = FilesClient(network.add(_GROUND), _NODE, budget=budget)
    with tempfile.TemporaryDirectory(prefix="bench-uplink-") as folder:
        # The lifetime of the server is that of the network it is bound to.
        FilesServer(network.add(_NODE), FileStore(Path(folder)))
        bases = {}
        if is_known:
            plan = network.run(client.plan(item.name, item.previous, {}), _LIMIT_S)
            network.run(client.upload(plan), _LIMIT_S)
            bases = {hashlib.sha256(item.previous).digest(): item.previous}
        began = network.scheduler.now
        plan = network.run(client.plan(item.name, item.content, bases), _LIMIT_S)
        network.run(client.upload(plan), _LIMIT_S)
        return network.scheduler.now - began


def _row(sizes: dict[Form, int]) -> tuple[str, ...]:
    return tuple(f"{sizes[form]:,}" for form in (Form.PLAIN, Form.BROTLI, Form.DELTA))


def _figure(key: str, value: float, unit: str, what: str) -> Figure:
    return Figure(key=key, value=value, unit=unit, what=what)
