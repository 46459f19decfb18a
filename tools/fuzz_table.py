"""The decoders that the guided campaign attacks, by name: everything that reads foreign bytes.

Where a checksum stands before the decoder, it is put right first: otherwise no input but the right
one would ever get past it. Texts are fed as Latin-1, so that every byte string is one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

from csp import cfp, cmp, framing, ftp, guard, hmac, monitor, packet, pcapng, rdp_wire, sfp
from csp.crc import crc32c
from csp.errors import CspError
from csp.files import delta, forms, stagelog
from csp.files import wire as files_wire
from csp.param import codec, entry, msgpack
from csp.param import format as param_format
from csp.param.spec import ParamSpec
from csp.param.types import ParamType
from csp.shell import line
from csp.vmem import file as vmem_file
from csp.vmem import wire as vmem_wire
from dipp import dtp, message, metadata, quarantine, records
from dipp.config import codec as config_codec
from dipp.config import yaml as config_yaml
from dipp.errors import DippError
from dipp.runner import protocol, values
from dish import asm, catalogue, frames, program, status, store
from dish.errors import DishError
from dish.plan.parser import parse
from dish.plan.problems import Report
from sim import tle
from sim.camera import capture
from sim.errors import SimError

Decoder = Callable[[bytes], object]
# What a decoder may raise. `ValueError` only where the docstring of the decoder says so.
NAMED = (CspError, DippError, DishError, SimError)
_BASE = bytes(range(256)) * 4
_KEY = bytes(range(16))
_LIMIT_BYTES = 5_000


def _can(data: bytes) -> None:
    for version in (1, 2):
        reassembler = cfp.Reassembler(version)
        for at in range(0, len(data), 12):
            can_id = int.from_bytes(data[at : at + 4], "big")
            reassembler.feed(can_id, data[at + 4 : at + 12], 0.0)


def _capture(data: bytes) -> None:
    stream = BytesIO()
    pcapng.CaptureWriter(stream).write(1.0, bytes(10))
    head = stream.getvalue()
    # As body of a block of each kind within a file, after the head of one, and as the whole file.
    size = (12 + len(data) + -len(data) % 4).to_bytes(4, "little")
    for kind in (1, 3, 6):
        block = kind.to_bytes(4, "little") + size + data + bytes(-len(data) % 4) + size
        with suppress(CspError):
            list(pcapng.read_capture(BytesIO(head + block + head)))
    for content in (data, head + data):
        list(pcapng.read_capture(BytesIO(content)))


def _shown(data: bytes) -> None:
    monitor.Decoder().describe(packet.decode_frame(data + bytes(6)))


def _management(data: bytes) -> None:
    code = cmp.Code(data[0] % 9 + 1) if data else cmp.Code.IDENT
    body = data[1:]
    match code:
        case cmp.Code.IDENT:
            cmp.Ident.decode(body)
        case cmp.Code.ROUTE_SET_V1 | cmp.Code.ROUTE_SET_V2:
            cmp.RouteSet.decode(code, body)
        case cmp.Code.IF_STATS:
            cmp.InterfaceStats.decode(body)
        case cmp.Code.CLOCK:
            cmp.Clock.decode(body)
        case _:
            cmp.MemoryAccess.decode(code, body)


def _areas(data: bytes) -> None:
    vmem_wire.decode_list(1 + len(data) % 3, [data[:100], data[100:]])


def _fragments(data: bytes) -> None:
    assembler = sfp.Assembler(_LIMIT_BYTES)
    for at in range(0, len(data), 12):
        assembler.feed(data[at : at + 12])


def _guarded(data: bytes) -> None:
    opened = packet.Packet(dst=1, src=2, dport=3, sport=4, flags=packet.Flag.HMAC, data=data)
    guard.Guard(_KEY, stamps=guard.VolatileStamps()).open(opened)


def _image(data: bytes) -> None:
    try:
        vmem_file.decode_image(data + crc32c(data).to_bytes(4, "little"), 300)
    except ValueError:
        return


def _staged(data: bytes) -> None:
    head = stagelog._MAGIC + stagelog._LENGTH.pack(len(data)) + data
    stagelog.decode_header(head + crc32c(head).to_bytes(4, "little"))


def _journal(data: bytes) -> None:
    records.decode_record(records._FRAME.pack(records._MARKER, len(data), crc32c(data)) + data, 0)


def _quarantined(data: bytes) -> None:
    head = quarantine._MAGIC + bytes(4) + data
    if len(head) >= quarantine._HEADER.size:
        fields = quarantine._HEADER.unpack_from(head)
        end = quarantine._HEADER.size + fields[6] + fields[7]
        head = head[:8] + zlib.crc32(head[:end]).to_bytes(4, "little") + head[12:]
    quarantine.decode_header(head)


def _procedures(data: bytes) -> None:
    body = store._HEAD.pack(store._MAGIC, len(data), 1 + len(data) % 3) + data
    store.decode_image(body + store._TAIL.pack(crc32c(body)))


def _assigned(data: bytes) -> None:
    kind = ParamType(data[0] % 16) if data else ParamType.U8
    spec = ParamSpec(id=1, name="p", type=kind, array_size=8)
    target, _, value = data[1:].decode("latin-1").partition(" ")
    param_format.parse_assignment(spec, param_format.parse_target(target), value)


def _text(parser: Callable[[str], object]) -> Decoder:
    return lambda data: parser(data.decode("latin-1"))


DECODERS: dict[str, Decoder] = {
    "frame1": lambda data: packet.decode_frame(data, 1),
    "frame2": lambda data: packet.decode_frame(data, 2),
    "kiss": lambda data: framing.KissDecoder().feed(data),
    "can": _can,
    "rdp": rdp_wire.decode_segment,
    "syn": lambda data: rdp_wire.RdpOptions.decode(data).bounded(),
    "sfp": _fragments,
    "hmac": lambda data: hmac.strip_hmac(data, _KEY),
    "stamped": _guarded,
    "cmp": _management,
    "queue1": lambda data: codec.decode_queue(data, 1, has_values=True),
    "queue2": lambda data: codec.decode_queue(data, 2, has_values=True),
    "poll": lambda data: codec.decode_queue(data, 2, has_values=False),
    "value": msgpack.decode_value,
    "entry": entry.decode_entry,
    "assignment": _assigned,
    "mask": _text(param_format.parse_mask),
    "line": _text(line.split_words),
    "vmem": vmem_wire.decode_request,
    "ring": vmem_wire.decode_ring_request,
    "areas": _areas,
    "image": _image,
    "ftp": ftp.FtpRequest.decode,
    "files": files_wire.decode_request,
    "answer": files_wire.decode_answer,
    "delta": lambda data: list(delta.decode_delta(data, _BASE, _LIMIT_BYTES)),
    "brotli": lambda data: list(forms.decode_form(forms.Form.BROTLI, data, None, _LIMIT_BYTES)),
    "staged": _staged,
    "capture": _capture,
    "monitor": _shown,
    "dtp": dtp.decode_dtp_request,
    "message": message.decode_message,
    "metadata": metadata.Metadata.decode,
    "pipeline": config_codec.decode_pipeline,
    "pipeline_message": lambda data: config_codec.decode_pipeline(config_codec.encode_slot(data)),
    "module_message": lambda data: config_codec.decode_module(config_codec.encode_slot(data)),
    "pipeline_yaml": _text(config_yaml.parse_pipeline),
    "journal": _journal,
    "quarantine": _quarantined,
    "runner": lambda data: protocol.decode_frame(data, tuple(protocol._NUMBERS)),
    "crash": values.CrashRecord.decode,
    "procedure": lambda data: program.decode(data, 255),
    "procedures": _procedures,
    "dish": frames.decode_frame,
    "status": status.decode_status,
    "assembler": _text(asm.assemble),
    "plan": _text(lambda text: parse(text, Report())),
    "lists": _text(lambda text: catalogue.decode_lists(text, "x")),
    "request": _text(capture.parse_capture),
    "tle": _text(tle.parse),
}
