"""Commands of csh's file service: ftp upload, download, ls, move, remove."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from csp.ftp import FtpClient
from csp.shell.command import NODE_OPTIONS, Args, Command, Option, Positional, UsageError
from csp.shell.completers import files
from csp.shell.session import Session
from csp.transfer import Report


def _client(session: Session, args: Args, report: Report | None = None) -> FtpClient:
    return FtpClient(session.stack, session.node_of(args), report)


async def _upload(session: Session, args: Args) -> None:
    path = Path(args.file).expanduser()
    content = path.read_bytes()
    if not content:
        raise UsageError(f"ftp upload: {path} is empty, and this service cannot carry nothing")
    target = args.path or path.name
    with session.reporting(f"ftp upload {target}", len(content)) as report:
        await _client(session, args, report).upload(target, content)
    session.out(f"{target}: {len(content)} bytes stored on node {session.node_of(args)}")


async def _download(session: Session, args: Args) -> None:
    target = Path(args.output or Path(args.path).name).expanduser()
    with ExitStack() as stack:
        bar: Report | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                # Only the first piece tells how many bytes there are.
                bar = stack.enter_context(session.reporting(f"ftp download {args.path}", total))
            bar(done, total)

        content = await _client(session, args, report).download(args.path)
    target.write_bytes(content)
    session.out(f"{target}: {len(content)} bytes")


async def _ls(session: Session, args: Args) -> None:
    for name in await _client(session, args).names(args.path or "/"):
        session.out(name)


async def _move(session: Session, args: Args) -> None:
    await _client(session, args).move(args.path, args.target)
    session.out(f"{args.path} is now {args.target}")


async def _remove(session: Session, args: Args) -> None:
    await _client(session, args).remove(args.path)
    session.out(f"{args.path}: removed")


_PATH = Positional(name="path", help="path on the node")

COMMANDS = (
    Command(
        path=("ftp", "upload"),
        summary="put a file on a node that serves csh's ftp (the A53)",
        details="For modules of DIPP use `upload`: it resumes, compresses and checks.",
        run=_upload,
        options=(
            *NODE_OPTIONS,
            Option(short="-p", long="--path", metavar="PATH", help="path there (default: FILE)"),
        ),
        positionals=(Positional(name="file", help="what to upload", complete=files),),
    ),
    Command(
        path=("ftp", "download"),
        summary="fetch a file from a node that serves csh's ftp",
        run=_download,
        options=(
            *NODE_OPTIONS,
            Option(short="-o", long="--output", metavar="FILE", help="where to put it"),
        ),
        positionals=(_PATH,),
    ),
    Command(
        path=("ftp", "ls"),
        summary="names in a folder of a node that serves csh's ftp",
        run=_ls,
        options=NODE_OPTIONS,
        positionals=(Positional(name="path", help="folder (default: all)", optional=True),),
    ),
    Command(
        path=("ftp", "move"),
        summary="give a file another path; what was there goes",
        run=_move,
        options=NODE_OPTIONS,
        positionals=(_PATH, Positional(name="target", help="new path")),
    ),
    Command(
        path=("ftp", "remove"),
        summary="remove a file, or a folder with all that is in it",
        run=_remove,
        options=NODE_OPTIONS,
        positionals=(_PATH,),
    ),
)
