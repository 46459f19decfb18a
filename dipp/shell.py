"""What DIPP adds to the CSP shell: ippc, ippb, obs, capture and crash.

Source: dipp.md 6, 14, 16.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from csp.keyfiles import operator_key
from csp.param.client import PushItem, RemoteParam
from csp.param.spec import ParamSpec
from csp.param.types import Mask, ParamType
from csp.shell.command import (
    JSON_OPTION,
    KEY_OPTION,
    NODE_OPTIONS,
    Args,
    Command,
    Option,
    Positional,
    UsageError,
    integer,
)
from csp.shell.completers import files
from csp.shell.session import CommandFailed, Session
from csp.signing import fingerprint
from csp.stack import Stack
from dipp.batch import split_blocks
from dipp.config.codec import SLOT_SIZE_BYTES, encode_module, encode_pipeline
from dipp.config.definition import PARAM_SLOT_COUNT, PIPELINE_COUNT
from dipp.config.yaml import parse_module, parse_pipeline
from dipp.dtp import DtpClient
from dipp.errors import DippError, describe, split_status
from dipp.index import IndexEntry, fetch_count, fetch_entry
from dipp.metadata import Metadata
from dipp.pictures import file_part, save_metadata, save_picture
from dipp.policy.shell import COMMANDS as POLICY_COMMANDS
from dipp.signedslot import sign_slot

_RING = "images"
_INDEX_TIMEOUT_S = 5.0
# A stack has one port for DTP data, so a session has one client.
_dtp_clients: WeakKeyDictionary[Stack, DtpClient] = WeakKeyDictionary()
_FIRST_PIPELINE_ID, _FIRST_MODULE_ID = 9, 29
_COUNTERS = (
    "log_status", "pipeline_run", "batches_taken", "batches_delivered", "batches_quarantined",
    "batches_dropped", "images_delivered", "bad_messages", "config_rejects", "module_failures",
)  # fmt: skip

Run = Callable[[Session, Args], Coroutine[Any, Any, None]]


def _reports_dipp_errors(run: Run) -> Run:
    """Turn this package's errors into the shell's."""

    @functools.wraps(run)
    async def wrapped(session: Session, args: Args) -> None:
        try:
            await run(session, args)
        except DippError as error:
            raise CommandFailed(str(error)) from error

    return wrapped


@_reports_dipp_errors
async def _pipeline(session: Session, args: Args) -> None:
    if not 1 <= args.index <= PIPELINE_COUNT:
        raise UsageError(f"Pipeline index is invalid. Range is 1-{PIPELINE_COUNT}")
    session.out(f"Client: Configuring pipeline {args.index}, using {args.file}")
    text = Path(args.file).read_text("utf-8")
    definition = parse_pipeline(text)
    slot = encode_pipeline(definition)
    await _push_slot(session, args, _FIRST_PIPELINE_ID, f"pipeline_config_{args.index}", slot)
    names = ", ".join(step.name for step in definition.modules)
    session.out(f"  {len(definition.modules)} modules: {names}; {_size(text, slot)}")


@_reports_dipp_errors
async def _module(session: Session, args: Args) -> None:
    if not 1 <= args.index <= PARAM_SLOT_COUNT:
        raise UsageError(f"Module index is invalid. Range is 1-{PARAM_SLOT_COUNT}")
    session.out(f"Client: Configuring module {args.index}, using {args.file}")
    text = Path(args.file).read_text("utf-8")
    config = parse_module(text)
    slot = encode_module(config)
    await _push_slot(session, args, _FIRST_MODULE_ID, f"module_param_{args.index}", slot)
    session.out(f"  {len(config.parameters)} parameters; {_size(text, slot)}")


def _size(text: str, slot: bytes) -> str:
    return f"{len(text.encode())} bytes of YAML in {slot[0] + 1} of {SLOT_SIZE_BYTES} bytes"


async def _push_slot(session: Session, args: Args, base_id: int, name: str, slot: bytes) -> None:
    node = session.node_of(args)
    spec = ParamSpec(
        id=base_id + args.index,
        name=name,
        type=ParamType.DATA,
        array_size=SLOT_SIZE_BYTES,
        mask=Mask.CONF,
    )
    slot = _signed(session, args, spec, slot)
    session.params.timeout_s = session.timeout_of(args)
    item = PushItem(param=RemoteParam(spec=spec, node=node), value=slot)
    stored = await session.params.push(node, [item], ack=not args.no_ack)
    if stored is not None and stored != [slot]:
        # A node that refuses a configuration answers with the one it keeps.
        raise CommandFailed(
            f"node {node} refused {name} and keeps what it had; `ippc status -n {node}` says why"
        )


def _signed(session: Session, args: Args, spec: ParamSpec, slot: bytes) -> bytes:
    key = operator_key(args.key)
    if key is None:
        return slot
    counter = key.next_counter()
    session.out(f"  signed with {fingerprint(key.signer.public_key)}, counter {counter}")
    return sign_slot(
        slot, key.signer, node=session.node_of(args), parameter_id=spec.id, counter=counter
    )


@_reports_dipp_errors
async def _ring_get(session: Session, args: Args) -> None:
    offset = -args.offset if args.from_newest else args.offset
    metadata, pixels = await _fetch(session, session.node_of(args), offset, 0)
    _show_metadata(session, metadata)
    if args.save:
        path = save_picture(
            metadata, pixels, Path(f"image_{file_part(metadata.camera)}"), raw=False
        )
        session.out(f"saved {path}")


async def _fetch(
    session: Session, node: int, index: int, size_bytes: int
) -> tuple[Metadata, memoryview]:
    """Download one element of the ring and split it."""
    with session.reporting(f"image {index}", size_bytes) as report:
        data = await session.vmem.ring_download(node, _RING, index, report)
    return _split(data)


def _split(data: bytes) -> tuple[Metadata, memoryview]:
    [block] = split_blocks(data, 1, len(data))
    end = block.pixel_offset + block.pixel_size
    return block.metadata, memoryview(data)[block.pixel_offset : end]


def _show_metadata(session: Session, metadata: Metadata) -> None:
    session.out(
        f"observation {metadata.obid}, camera {metadata.camera!r}, {metadata.width}x"
        f"{metadata.height}, {metadata.channels} channels, {metadata.bits_pixel} bits, "
        f"time {metadata.timestamp}, {metadata.size} bytes"
    )
    for key, value in metadata.items:
        session.out(f"  {key} = {value}")


@_reports_dipp_errors
async def _obs_list(session: Session, args: Args) -> None:
    node, timeout_s = session.node_of(args), max(session.timeout_of(args), 5.0)
    count = await fetch_count(session.stack, node, timeout_s)
    if not args.json:
        session.out(f"{count} images on node {node}")
    rows: list[dict[str, int]] = []
    for position in range(count):
        entry = await fetch_entry(session.stack, node, position, timeout_s)
        if entry is None:
            continue
        rows.append({"index": entry.position, "observation": entry.obid, "bytes": entry.size_bytes})
        if not args.json:
            session.out(f"{entry.position:5}  observation {entry.obid}, {entry.size_bytes} bytes")
    if args.json:
        session.out(json.dumps({"node": node, "images": rows}))


@_reports_dipp_errors
async def _obs_get(session: Session, args: Args) -> None:
    node = session.node_of(args)
    entry = await _find(session, args, node)
    metadata, pixels = await _fetch(session, node, entry.position, entry.size_bytes)
    _save(session, args, entry, metadata, pixels)


@_reports_dipp_errors
async def _obs_dtp(session: Session, args: Args) -> None:
    node = session.node_of(args)
    entry = await _find(session, args, node)
    client = _dtp_clients.get(session.stack)
    if client is None:
        client = _dtp_clients[session.stack] = DtpClient(session.stack)
    with session.reporting(f"image {entry.position}", entry.size_bytes) as report:
        data = await client.download(
            node, entry.position, throughput=args.throughput, mtu=args.mtu, progress=report
        )
    # The wire names an element by its place only; the places move when the oldest is overwritten.
    if await fetch_entry(session.stack, node, entry.position, _INDEX_TIMEOUT_S) != entry:
        raise CommandFailed(f"the ring of node {node} moved meanwhile; see `obs list`, try again")
    metadata, pixels = _split(data)
    _save(session, args, entry, metadata, pixels)


async def _find(session: Session, args: Args, node: int) -> IndexEntry:
    """Return the image the operator means."""
    timeout_s = max(session.timeout_of(args), _INDEX_TIMEOUT_S)
    index = args.index
    if index < 0:
        index += await fetch_count(session.stack, node, timeout_s)
    entry = await fetch_entry(session.stack, node, index, timeout_s) if index >= 0 else None
    if entry is None:
        raise CommandFailed(f"node {node} has no image {args.index}; `obs list` shows them")
    return entry


def _save(
    session: Session, args: Args, entry: IndexEntry, metadata: Metadata, pixels: memoryview
) -> None:
    _show_metadata(session, metadata)
    name = args.output or f"obs_{metadata.obid}_{entry.position}"
    path = save_picture(metadata, pixels, Path(name), raw=args.raw)
    session.out(f"saved {path} and {save_metadata(metadata, path)}")


async def _capture(session: Session, args: Args) -> None:
    node = session.node_of(args)
    name, value = ("capture_param", args.request) if args.request else ("capture_image", 1)
    param = await session.remote.find(node, name)
    await session.params.push(node, [PushItem(param=param, value=value)])
    session.out(f"capture started on node {node}; `get -n {node} busy` tells when it is done")


@_reports_dipp_errors
async def _status(session: Session, args: Args) -> None:
    node = session.node_of(args)
    names = [(name, None) for name in _COUNTERS]
    values = await session.remote.get_many(node, names)
    for name, value in zip(_COUNTERS, values, strict=True):
        meaning = ""
        if name == "log_status" and isinstance(value, int) and value:
            status = split_status(value)
            meaning = f"  {status}: {describe(status.code)}"
        session.out(f"{name:<20} {value!r}{meaning}")


_NO_ACK = Option(short="-a", long="--no-ack", help="do not ask for the value back")
_FILE = Positional(name="file", complete=files, help="YAML")

COMMANDS = (
    Command(
        path=("ippc", "pipeline"),
        summary="configure a pipeline from a YAML file",
        run=_pipeline,
        options=(*NODE_OPTIONS, _NO_ACK, KEY_OPTION),
        positionals=(Positional(name="index", convert=integer, help="1..6"), _FILE),
    ),
    Command(
        path=("ippc", "module"),
        summary="fill a module parameter slot from a YAML file",
        run=_module,
        options=(*NODE_OPTIONS, _NO_ACK, KEY_OPTION),
        positionals=(Positional(name="index", convert=integer, help="1..20"), _FILE),
    ),
    Command(
        path=("ippc", "status"),
        summary="what the image pipeline has done, with its last error explained",
        run=_status,
        options=NODE_OPTIONS,
    ),
    Command(
        path=("ippb", "get"),
        summary="download one image of the ring: 0 is the oldest, -1 the newest",
        run=_ring_get,
        options=(
            *NODE_OPTIONS,
            Option(short="-s", long="--save", help="save image_CAMERA.png"),
            Option(short="-f", long="--from-newest", help="negate the offset, as csh does"),
        ),
        positionals=(Positional(name="offset", convert=integer),),
    ),
    Command(
        path=("obs", "list"),
        summary="list the images that wait for downlink",
        run=_obs_list,
        options=(*NODE_OPTIONS, JSON_OPTION),
    ),
    Command(
        path=("obs", "get"),
        summary="download an image; save the picture and its metadata (.json)",
        run=_obs_get,
        options=(
            *NODE_OPTIONS,
            Option(short="-o", long="--output", metavar="FILE", help="default obs_OBID_INDEX"),
            Option(short="-r", long="--raw", help="save the bytes as they are, not as PNG"),
        ),
        positionals=(Positional(name="index", convert=integer, help="as listed; -1 newest"),),
    ),
    Command(
        path=("obs", "dtp"),
        summary="the same by DTP: paced, without acknowledgements, gaps repaired at the end",
        run=_obs_dtp,
        options=(
            *NODE_OPTIONS,
            Option(short="-o", long="--output", metavar="FILE", help="default obs_OBID_INDEX"),
            Option(short="-r", long="--raw", help="save the bytes as they are, not as PNG"),
            Option(
                short="-T",
                long="--throughput",
                convert=integer,
                default=100,
                metavar="KIB",
                help="KiB per second (default 100)",
            ),
            Option(
                short="-u",
                long="--mtu",
                convert=integer,
                default=200,
                metavar="BYTES",
                help="bytes per packet, 16..2000 (default 200, which every node can carry)",
            ),
        ),
        positionals=(Positional(name="index", convert=integer, help="as listed; -1 newest"),),
    ),
    Command(
        path=("capture",),
        summary="take pictures: as configured, or as a capture string says",
        run=_capture,
        options=NODE_OPTIONS,
        positionals=(Positional(name="request", optional=True, help="KEY=value;KEY=value;..."),),
    ),
    *POLICY_COMMANDS,
)
