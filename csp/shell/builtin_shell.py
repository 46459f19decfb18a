"""Commands about the shell itself: help, node, timeout, variables, history, waiting, leaving."""

from __future__ import annotations

from csp.shell.command import Args, Command, Positional, UsageError, seconds_from_ms
from csp.shell.completers import commands, nodes
from csp.shell.session import Session

_OVERVIEW_WIDTH = 38


async def _help(session: Session, args: Args) -> None:
    words: list[str] = args.command
    if not words:
        _overview(session, list(session.registry))
        session.out("help COMMAND explains one, with its options")
        return
    try:
        command, _ = session.registry.find(words)
    except UsageError:
        group = [c for c in session.registry if c.path[: len(words)] == tuple(words)]
        if not group:
            raise
        _overview(session, group)
        return
    session.out(command.help())


def _overview(session: Session, commands: list[Command]) -> None:
    """One line per command: its name, what it takes, what it does."""
    for command in commands:
        session.out(f"{command.brief():<{_OVERVIEW_WIDTH}} {command.summary.rstrip('.')}")


async def _node(session: Session, args: Args) -> None:
    if args.node is not None:
        session.node = session.resolve_node(args.node)
        session.seen_nodes.add(session.node)
    names = [name for name, number in session.aliases.items() if number == session.node]
    session.out(f"default node: {session.node}{f' ({names[0]})' if names else ''}")


async def _timeout(session: Session, args: Args) -> None:
    if args.ms is not None:
        session.timeout_s = args.ms
        session.params.timeout_s = args.ms
    session.out(f"default timeout: {session.timeout_s * 1000:.0f} ms")


async def _var(session: Session, args: Args) -> None:
    if args.name is None:
        for name, value in sorted(session.variables.items()):
            session.out(f"{name}={value}")
    elif args.value is None:
        if args.name not in session.variables:
            raise UsageError(f"no variable is named {args.name}")
        session.out(session.variables[args.name])
    else:
        session.variables[args.name] = args.value


async def _history(session: Session, args: Args) -> None:
    del args
    for number, line in enumerate(session.history[-100:], start=1):
        session.out(f"{number:4}  {line}")


async def _sleep(session: Session, args: Args) -> None:
    await session.scheduler.sleep(args.ms)


async def _exit(session: Session, args: Args) -> None:
    del args
    session.closed = True


COMMANDS = (
    Command(
        path=("help",),
        summary="list commands, or explain one",
        run=_help,
        positionals=(Positional(name="command", optional=True, many=True, complete=commands),),
    ),
    Command(
        path=("node",),
        summary="show or set the node that commands are for",
        run=_node,
        positionals=(
            Positional(name="node", optional=True, help="number or learned name", complete=nodes),
        ),
    ),
    Command(
        path=("timeout",),
        summary="show or set how long commands wait for an answer",
        run=_timeout,
        positionals=(Positional(name="ms", optional=True, convert=seconds_from_ms),),
    ),
    Command(
        path=("var",),
        summary="show or set a variable, used as $(NAME)",
        run=_var,
        positionals=(
            Positional(name="name", optional=True),
            Positional(name="value", optional=True),
        ),
    ),
    Command(path=("history",), summary="show the lines run so far", run=_history),
    Command(
        path=("sleep",),
        summary="wait, in scripts",
        run=_sleep,
        positionals=(Positional(name="ms", convert=seconds_from_ms),),
    ),
    Command(path=("exit",), summary="leave the shell", run=_exit),
)
