"""Commands that bring files to a node and manage what it has: upload, files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from csp.errors import DecodeError
from csp.files.archive import default_archive, read_bases
from csp.files.client import CONNECT_TIMEOUT_S, FilesClient
from csp.files.forms import Form
from csp.files.transfer import LinkBudget, Plan
from csp.files.wire import Entry, Part, VersionKind
from csp.keyfiles import operator_key
from csp.shell.command import (
    KEY_OPTION,
    NODE_OPTIONS,
    Args,
    Command,
    Option,
    Positional,
    UsageError,
)
from csp.shell.completers import files
from csp.shell.session import CommandFailed, Session
from csp.signing import Seal, decode_seal

# How much of a SHA-256 identifies a version to an operator.
_SHORT_HASH = 12
_FORM_NAMES = {Form.PLAIN: "as it is", Form.BROTLI: "compressed", Form.DELTA: "delta"}


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _client(session: Session, args: Args, budget: LinkBudget | None = None) -> FilesClient:
    # The session's timeout is for one packet; opening a connection takes several.
    timeout_s: float = CONNECT_TIMEOUT_S if args.timeout is None else args.timeout
    node = session.node_of(args)
    return FilesClient(session.stack, node, budget=budget, timeout_s=timeout_s)


async def _upload(session: Session, args: Args) -> None:
    path = Path(args.file).expanduser()
    content = path.read_bytes()
    budget = LinkBudget(rate_bps=args.rate, delay_s=args.delay, pass_s=args.passlength)
    client = _client(session, args, budget)
    archive = default_archive()
    name = args.name or path.name
    entry = await client.entry(name)
    bases = archive.find(each.sha256 for each in entry.versions) if entry is not None else {}
    if args.base is not None:
        bases |= read_bases(Path(args.base).expanduser())
    plan = await client.plan(name, content, bases)
    for line in describe_plan(plan, entry):
        session.out(line)
    if args.plan:
        return
    await _sign(session, client, args, name, content)
    if plan.offer is None:
        return
    began = session.scheduler.now
    stream = len(plan.stream)
    with session.reporting(f"upload {name}", stream) as report:
        report(plan.received, stream)
        done = await client.upload(
            plan, report=lambda received: report(received, stream), patience_s=args.wait
        )
    archive.keep(content)
    session.out(
        f"{name}: active on node {client.node} after {session.scheduler.now - began:.1f} s, "
        f"{done.packets} packets sent, {done.repeated} repeated"
    )


def _seal(args: Args, name: str, content: bytes) -> Seal | None:
    """Return the signature to send: from a file, made with a key, or none."""
    if args.signature is not None:
        text = Path(args.signature).expanduser().read_text("ascii", errors="replace")
        try:
            return decode_seal(bytes.fromhex(text))
        except (ValueError, DecodeError) as error:
            raise CommandFailed(f"{args.signature} is not what `csp keys sign` writes") from error
    key = operator_key(args.key)
    return None if key is None else key.signer.seal_file(name, content, key.next_counter())


async def _sign(
    session: Session, client: FilesClient, args: Args, name: str, content: bytes
) -> None:
    seal = _seal(args, name, content)
    if seal is None:
        return
    if await client.sign(name, hashlib.sha256(content).digest(), seal):
        session.out(f"{name}: signature {seal.counter} accepted")
    else:
        session.out(f"{name}: node {client.node} asks for no signatures")


def describe_plan(plan: Plan, entry: Entry | None = None) -> list[str]:
    """Return what an operator should know before an upload: sizes, choice, time, passes."""
    if plan.offer is None:
        return [f"{plan.name}: the node has exactly this content active; nothing to send"]
    sizes = ", ".join(f"{_FORM_NAMES[form]} {size}" for form, size in plan.sizes)
    lines = [f"{plan.name}: bytes {sizes}"]
    offer = plan.offer
    chosen = f"sending {_FORM_NAMES[offer.form]}: {len(plan.stream)} bytes"
    if offer.base_sha256 is not None:
        chosen += f" against version {offer.base_sha256.hex()[:_SHORT_HASH]}"
    lines.append(chosen)
    if plan.received:
        lines.append(f"{plan.received} of them are on board already, {plan.remaining} are to send")
    elif entry is not None and entry.stage is not None and entry.stage.received:
        lines.append(
            f"this replaces another upload of which {entry.stage.received} of "
            f"{entry.stage.wire_size} bytes are on board"
        )
    passes, budget = plan.passes, plan.budget
    lines.append(
        f"on the uplink: {plan.uplink_bytes} bytes with overhead, {plan.seconds:.1f} s at "
        f"{budget.rate_bps:g} bit/s, {passes} pass{'es' if passes > 1 else ''} of "
        f"{budget.pass_s:g} s"
    )
    return lines


async def _list(session: Session, args: Args) -> None:
    listing = await _client(session, args).list()
    for entry in listing.entries:
        for line in describe_entry(entry):
            session.out(line)
    count = len(listing.entries)
    session.out(
        f"{count} file{'' if count == 1 else 's'}, {listing.free_bytes} bytes free, "
        f"at most {listing.limit_bytes} per file"
    )


def describe_entry(entry: Entry) -> list[str]:
    """Return one line per version and upload under way: name, state, size, hash."""
    lines = [
        f"{entry.name:<24} {each.kind.name.lower():<9} {each.size:>9}  "
        f"{each.sha256.hex()[:_SHORT_HASH]}"
        for each in entry.versions
    ]
    stage = entry.stage
    if stage is not None:
        lines.append(
            f"{entry.name:<24} {'staged':<9} {stage.received:>9}  "
            f"{stage.content_sha256.hex()[:_SHORT_HASH]}  of {stage.wire_size} bytes, "
            f"{_FORM_NAMES[stage.form]}"
        )
    return lines


async def _rollback(session: Session, args: Args) -> None:
    client = _client(session, args)
    changed = await client.rollback(args.name)
    entry = await client.entry(args.name)
    active = entry.version(VersionKind.ACTIVE) if entry is not None else None
    if active is None:
        raise CommandFailed(f"{args.name}: rolled back, but then gone")
    version = active.sha256.hex()[:_SHORT_HASH]
    session.out(f"{args.name}: version {version} is active{'' if changed else ' already'}")


async def _delete(session: Session, args: Args) -> None:
    if args.staged and args.previous:
        raise UsageError("files delete: either -s or -p; neither removes everything")
    parts = Part.STAGE if args.staged else Part.PREVIOUS if args.previous else Part.ALL
    await _client(session, args).delete(args.name, parts)
    session.out(f"{args.name}: deleted")


_NAME = Positional(name="name", help="as `files list` shows it")

COMMANDS = (
    Command(
        path=("upload",),
        summary="bring a module or model to a node, in as many passes as it takes",
        details=(
            "Says first how many bytes, seconds and passes it takes. Sends the content compressed,"
            " or as a difference to a version on board if that is smaller and known here (uploaded"
            " from here before, or given with -b). Repeat the command to continue after a break."
        ),
        run=_upload,
        options=(
            *NODE_OPTIONS,
            Option(short="-N", long="--name", metavar="NAME", help="name on board (default: FILE)"),
            Option(short="-p", long="--plan", help="only say what it would take"),
            Option(
                short="-b", long="--base", metavar="PATH",
                help="file or folder with versions that are on board",
            ),
            Option(
                short="-r", long="--rate", metavar="BPS", convert=_positive, default=9600.0,
                help="uplink rate, bit/s (default: 9600)",
            ),
            Option(
                short="-d", long="--delay", metavar="S", convert=_positive, default=0.25,
                help="one-way delay of the link, s (default: 0.25)",
            ),
            Option(
                short="-l", long="--passlength", metavar="S", convert=_positive, default=480.0,
                help="length of a pass, s (default: 480)",
            ),
            Option(
                short="-w", long="--wait", metavar="S", convert=_positive, default=60.0,
                help="wait for the node this long, as over a gap between passes (default: 60)",
            ),
            KEY_OPTION,
            Option(
                short="-S", long="--signature", metavar="FILE",
                help="signature made elsewhere with `csp keys sign`",
            ),
        ),
        positionals=(Positional(name="file", help="what to upload", complete=files),),
    ),
    Command(
        path=("files", "list"),
        summary="uploaded files of a node: versions, sizes, uploads under way",
        run=_list,
        options=NODE_OPTIONS,
    ),
    Command(
        path=("files", "rollback"),
        summary="make the previous version of a file active again",
        run=_rollback,
        options=NODE_OPTIONS,
        positionals=(_NAME,),
    ),
    Command(
        path=("files", "delete"),
        summary="remove a file from a node, with its previous version and upload under way",
        run=_delete,
        options=(
            *NODE_OPTIONS,
            Option(short="-s", long="--staged", help="only the upload under way"),
            Option(short="-p", long="--previous", help="only the previous version"),
        ),
        positionals=(_NAME,),
    ),
)  # fmt: skip
