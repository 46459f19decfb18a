"""The other end of the network benchmark: a node in a process of its own, on UDP.

`python -m bench.peer PORT` prints the port it listens on itself and answers until it is ended.
"""

from __future__ import annotations

import sys

from csp.connection import Connection
from csp.links.udp import UdpLink
from csp.loop import Loop
from csp.node import CspNode
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.services import Identity

ADDRESS, SINK_PORT, PARAMETERS = 9, 16, 32


def table() -> ParamTable:
    """Return the parameters the benchmark pulls."""
    return ParamTable(
        ParamSpec(id=number, name=f"value_{number}", type=ParamType.U32)
        for number in range(1, PARAMETERS + 1)
    )


async def swallow(connection: Connection) -> None:
    """Receive everything and say how much it was."""
    total = 0
    while (data := await connection.receive()) is not None:
        total += len(data)
        if data.endswith(b"end"):
            await connection.send(total.to_bytes(8, "little"))


def main(argv: list[str]) -> int:
    """Serve until SIGTERM."""
    loop = Loop()
    loop.install_signals()
    link = UdpLink("127.0.0.1", int(argv[0]))
    node = CspNode(loop, address=ADDRESS, identity=Identity(hostname="bench"), table=table())
    node.attach(link)
    node.stack.listen(SINK_PORT, swallow)
    print(link.local_port, flush=True)
    loop.run()
    link.close()
    loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
