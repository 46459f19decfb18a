"""Modules that lie about their result, and files that are no modules: groups D and E. Pure."""

from __future__ import annotations

from dipp.errors import Code
from dipp.hostilefault import OK, Fault
from dipp.hostilefault import make_fault as _fault

_SEND_TO_SOCKETS = """\
def send_to_all(data):
    for fd in range(3, 64):
        try:
            socket.socket(fileno=os.dup(fd)).send(data)
        except OSError:
            pass
"""

LIES: tuple[Fault, ...] = (
    _fault(38, "wrong-segment-id", Code.SHM_ATTACH, native="other-segment"),
    _fault(
        38, "unknown-segment", Code.RESULT_INVALID,
        body="image._pixels_ref = SegmentRange(segment=9, offset=0, length=image.metadata.size)",
    ),
    _fault(39, "negative-size", Code.RESULT_INVALID, native="size-negative"),
    _fault(39, "zero-size", Code.RESULT_INVALID, native="size-zero"),
    _fault(39, "size-beyond-segment", Code.RESULT_INVALID, native="size-large"),
    _fault(
        39, "range-beyond-segment", Code.RESULT_INVALID,
        body="image._pixels_ref = SegmentRange(segment=0, offset=1 << 40, length=64)",
    ),
    _fault(40, "count-too-large", Code.RESULT_INVALID, native="count-large"),
    _fault(40, "count-negative", Code.RESULT_INVALID, native="count-negative"),
    _fault(40, "count-zero", Code.RESULT_INVALID, native="count-zero"),
    _fault(41, "other-pipeline", Code.RESULT_INVALID, body="batch.pipeline_id = 6"),
    _fault(41, "native-other-pipeline", Code.RESULT_INVALID, native="pipeline"),
    _fault(42, "metadata-past-end", Code.RESULT_INVALID, native="meta-size"),
    _fault(
        43, "metadata-garbage", Code.RESULT_INVALID,
        body="image._meta_ref = image._space.store(b'\\xff' * 9)",
    ),
    _fault(
        43, "metadata-truncated", Code.RESULT_INVALID,
        body="image._meta_ref = image._space.store(image.metadata.encode()[:-3])",
    ),
    _fault(
        # Field 2, the height, as text: to protobuf a field that nobody knows.
        43, "metadata-of-wrong-type", OK,
        body="image._meta_ref = image._space.store(image.metadata.encode() + b'\\x12\\x01x')",
    ),
    _fault(
        # Field 99: a newer writer; readers that do not know it must still read.
        43, "metadata-with-unknown-field", OK,
        body="image._meta_ref = image._space.store(image.metadata.encode() + b'\\x98\\x06\\x01')",
    ),
    _fault(
        43, "metadata-duplicate-keys", Code.RESULT_INVALID,
        body="image.update(items=(('a', 1), ('a', 2)))",
    ),
    _fault(44, "not-a-number", Code.RESULT_INVALID, body="image.set_item('x', float('nan'))"),
    _fault(44, "infinite", Code.RESULT_INVALID, body="image.set_item('x', float('-inf'))"),
    _fault(
        44, "huge-dimensions", Code.RESULT_INVALID, body="image.update(width=2**31 - 1)"
    ),
    _fault(44, "size-is-a-lie", Code.RESULT_INVALID, body="image.update(size=3)"),
    _fault(
        45, "garbage-before-result", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "send_to_all(b'garbage')",
    ),
    _fault(
        45, "empty-message-before-result", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "send_to_all(bytes([31]))",
    ),
    _fault(
        45, "too-long-a-message", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "send_to_all(bytes(180000))",
    ),
    _fault(
        # A child that has said a true result may be ended before it says another one.
        45, "two-results", OK, Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "from dipp.runner.frames import ModuleForwarded\n"
        "from dipp.runner.protocol import encode_frame\n"
        "send_to_all(encode_frame(ModuleForwarded(batch_id=batch.batch_id)))",
    ),
    _fault(45, "returns-nonsense", Code.RESULT_INVALID, body="return [1, 2, 3]"),
    _fault(45, "images-of-nonsense", Code.RESULT_INVALID, body="batch.images.append(b'x')"),
    _fault(45, "too-many-images", Code.RESULT_INVALID, body="batch.images *= 5000"),
)  # fmt: skip

_C_PROBE = "typedef struct { long m; int n, s, i, p; void *d; } B; B run(B *b) { return *b; }\n"

LOADING: tuple[Fault, ...] = (
    _fault(46, "missing-file", Code.MODULE_NOT_FOUND),
    _fault(47, "no-run", Code.MODULE_NO_RUN, python="x = 1\n"),
    _fault(47, "run-is-no-function", Code.MODULE_NO_RUN, python="run = 5\n"),
    _fault(47, "native-no-run", Code.MODULE_NO_RUN, load_c="int walk;\n"),
    _fault(48, "no-python", Code.MODULE_NOT_FOUND, python="def run(:\n"),
    _fault(48, "null-bytes", Code.MODULE_NOT_FOUND, python="x = 1\0\n"),
    _fault(48, "text-as-object", Code.MODULE_NOT_FOUND, content=b"not an ELF file"),
    _fault(48, "truncated-object", Code.MODULE_NOT_FOUND, content=b"\x7fELF\2\1\1" + bytes(99)),
    _fault(
        49, "constructor-crashes", Code.LOAD_CRASHED,
        load_c=_C_PROBE + "__attribute__((constructor)) void c(void) { *(volatile int *)0 = 1; }\n",
    ),
    _fault(
        49, "constructor-exits", Code.LOAD_CRASHED,
        load_c="#include <stdlib.h>\n" + _C_PROBE
        + "__attribute__((constructor)) void c(void) { exit(0); }\n",
    ),
    _fault(49, "import-raises", Code.LOAD_CRASHED, python="raise SystemExit(0)\n"),
    _fault(49, "import-crashes", Code.LOAD_CRASHED, python="import os; os.abort()\n"),
    _fault(
        49, "load-hook-fails", 703,
        python="from dipp.sdk import fail\ndef load(params): fail(3)\ndef run(b, p): pass\n",
    ),
    _fault(
        50, "other-interface", Code.MODULE_NOT_FOUND,
        python="from dipp.sdk import Manifest\nMANIFEST = Manifest('x', '1', '', abi=99)\n"
        "def run(batch, params): pass\n",
    ),
    _fault(
        50, "native-other-interface", Code.MODULE_NOT_FOUND,
        load_c=_C_PROBE + "int dipp_abi_version = 99;\n",
    ),
)  # fmt: skip
