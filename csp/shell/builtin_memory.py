"""Commands on the memory areas of nodes: list, download, upload, checksum."""

from __future__ import annotations

from pathlib import Path

from csp.shell.command import NODE_OPTIONS, Args, Command, Option, Positional, UsageError, unsigned
from csp.shell.completers import files
from csp.shell.session import CommandFailed, Session
from csp.vmem.area import AreaKind
from csp.vmem.client import Incomplete

_VERSION = Option(
    short="-v",
    long="--version",
    metavar="VERSION",
    convert=unsigned,
    help="request version 1..3 (default: the lowest that can express the range)",
)
_NO_RDP = Option(short="-r", long="--no-rdp", help="without RDP: faster, not reliable")
_ADDRESS = Positional(name="address", convert=unsigned, help="as `vmem` shows it")
_LENGTH = Positional(name="length", convert=unsigned, help="bytes")


async def _list(session: Session, args: Args) -> None:
    node = session.node_of(args)
    session.vmem.timeout_s = session.timeout_of(args)
    areas = await session.vmem.list(node, args.version or 2)
    if not areas:
        session.out(f"node {node} has no memory areas")
    for area in areas:
        session.out(f"{area.name:<17} {area.address:#014x} - {area.size} bytes, {_kind(area.kind)}")


def _kind(number: int) -> str:
    try:
        return AreaKind(number).name.lower().replace("_", " ")
    except ValueError:
        return f"type {number}"


async def _download(session: Session, args: Args) -> None:
    path = Path(args.file)
    start = path.stat().st_size if args.resume and path.exists() else 0
    left = args.length - start
    if left <= 0:
        raise UsageError(f"{path} already has {start} of {args.length} bytes")
    with session.reporting(path.name, left) as report:
        try:
            data = await session.vmem.download(
                session.node_of(args),
                args.address + start,
                left,
                version=args.version,
                rdp=not args.no_rdp,
                progress=report,
            )
        except Incomplete as error:
            _write(path, start, error.data)
            raise CommandFailed(
                f"{error}; {start + len(error.data)} bytes are in {path}, go on with --resume"
            ) from None
    _write(path, start, data)
    session.out(f"{args.length} bytes from {args.address:#x} in {path}")


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(data)


async def _upload(session: Session, args: Args) -> None:
    data = Path(args.file).read_bytes()
    with session.reporting(Path(args.file).name, len(data)) as report:
        await session.vmem.upload(
            session.node_of(args), args.address, data, version=args.version, progress=report
        )
    session.out(f"{len(data)} bytes at {args.address:#x}, checksum verified")


async def _crc32(session: Session, args: Args) -> None:
    session.vmem.timeout_s = session.timeout_of(args)
    crc = await session.vmem.crc32(session.node_of(args), args.address, args.length, args.version)
    session.out(f"CRC32C of {args.length} bytes at {args.address:#x}: {crc:#010x}")


_DOWNLOAD = Command(
    path=("vmem", "download"),
    summary="read memory of a node into a file",
    run=_download,
    options=(
        *NODE_OPTIONS,
        _VERSION,
        _NO_RDP,
        Option(short="-c", long="--resume", help="go on after the bytes the file has"),
    ),
    positionals=(_ADDRESS, _LENGTH, Positional(name="file", complete=files)),
)
_CRC32 = Command(
    path=("vmem", "crc32"),
    summary="checksum of memory of a node",
    run=_crc32,
    options=(*NODE_OPTIONS, _VERSION),
    positionals=(_ADDRESS, _LENGTH),
)


def _also_as(command: Command, path: tuple[str, ...]) -> Command:
    return Command(
        path=path,
        summary=f"the same as `{command.name}`, as csh calls it",
        run=command.run,
        options=command.options,
        positionals=command.positionals,
    )


COMMANDS = (
    Command(
        path=("vmem",),
        summary="list the memory areas of a node",
        run=_list,
        options=(*NODE_OPTIONS, _VERSION),
    ),
    _DOWNLOAD,
    Command(
        path=("vmem", "upload"),
        summary="write a file into memory of a node and compare checksums",
        run=_upload,
        options=(*NODE_OPTIONS, _VERSION),
        positionals=(Positional(name="file", complete=files), _ADDRESS),
    ),
    _CRC32,
    _also_as(_DOWNLOAD, ("download",)),
    _also_as(_CRC32, ("crc32",)),
)
