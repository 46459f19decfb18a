"""Run a shared object with the flown interface on a batch in a System V segment.

Driver; `open_library` runs in the host, the rest in the module child. The module gets what it got
in flight: `ImageBatch run(ImageBatch *, ModuleParameterList *, int error_pipe[2])`. It may return
the segment it was given or one that it created itself; any other is refused, both are removed.
Source: dipp.md 7, 8 and 13, defects D4, D5 and D11.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence

from dipp.batch import META_SIZE, split_blocks
from dipp.errors import Code, ContentError
from dipp.manifest import ParamValue
from dipp.runner.frames import (
    Go,
)
from dipp.workspace import ImageRef, ModuleError, SeenImage, SegmentRange, Workspace

_IPC_PRIVATE, _IPC_CREAT, _IPC_RMID, _IPC_SET, _IPC_STAT = 0, 0o1000, 0, 1, 2
_SHMAT_FAILED = ctypes.c_void_p(-1).value
_MESSAGE_TYPE = 1
# Value cases of ModuleParameter, in the order bool before int: every bool is an int.
_CASES: tuple[tuple[type, int], ...] = ((bool, 2), (int, 3), (float, 4), (str, 5))
_ABI_SYMBOL = "dipp_abi_version"
_ABI_VERSION = 1


class ImageBatch(ctypes.Structure):
    """The 32-byte message, in and out."""

    _fields_ = (
        ("mtype", ctypes.c_long),
        ("num_images", ctypes.c_int32),
        ("batch_size", ctypes.c_int32),
        ("shmid", ctypes.c_int32),
        ("pipeline_id", ctypes.c_int32),
        ("data", ctypes.c_void_p),
    )


class _Value(ctypes.Union):
    _fields_ = (
        ("bool_value", ctypes.c_int),
        ("int_value", ctypes.c_int32),
        ("float_value", ctypes.c_float),
        ("string_value", ctypes.c_char_p),
    )


class ModuleParameter(ctypes.Structure):
    """One parameter, 24 bytes."""

    _fields_ = (("key", ctypes.c_char_p), ("value_case", ctypes.c_int32), ("value", _Value))


class ModuleParameterList(ctypes.Structure):
    """Count and pointer to an array of pointers, 16 bytes."""

    _fields_ = (
        ("n_parameters", ctypes.c_size_t),
        ("parameters", ctypes.POINTER(ctypes.POINTER(ModuleParameter))),
    )


class _IpcPerm(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_int),
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("cuid", ctypes.c_uint),
        ("cgid", ctypes.c_uint),
        ("mode", ctypes.c_uint),
        ("seq", ctypes.c_ushort),
        ("pad", ctypes.c_ushort),
        ("reserved", ctypes.c_ulong * 2),
    )


class _ShmidDs(ctypes.Structure):
    # glibc's 64-bit layout, the same on x86-64 and AArch64.
    _fields_ = (
        ("perm", _IpcPerm),
        ("size", ctypes.c_size_t),
        ("atime", ctypes.c_long),
        ("dtime", ctypes.c_long),
        ("ctime", ctypes.c_long),
        ("creator_pid", ctypes.c_int),
        ("last_pid", ctypes.c_int),
        ("attached", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong * 2),
    )


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = (ctypes.c_void_p,)
    libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
    return libc


_LIBC = _libc()


def open_library(path: str, content: bytes) -> NativeLibrary:
    """Link a shared object from its content. Raises ContentError: 501 or 502.

    Linking runs its constructors. It happens from an anonymous file, so that overwriting the
    module's file cannot pull the code from under a running host.
    """
    fd = os.memfd_create(os.path.basename(path)[:200], os.MFD_CLOEXEC)
    # The descriptor stays open on purpose: the linker knows libraries by path, and a number that
    # is used again would give the wrong one.
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    try:
        library = ctypes.CDLL(f"/proc/self/fd/{fd}", mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise ContentError(f"{path}: {error}", Code.MODULE_NOT_FOUND) from error
    with contextlib.suppress(ValueError):
        version = ctypes.c_int.in_dll(library, _ABI_SYMBOL).value
        if version != _ABI_VERSION:
            text = f"{path}: interface version {version}, this runner has {_ABI_VERSION}"
            raise ContentError(text, Code.MODULE_NOT_FOUND)
    try:
        library.run.restype = ImageBatch
    except AttributeError as error:
        raise ContentError(f"{path}: no symbol run", Code.MODULE_NO_RUN) from error
    return NativeLibrary(library)


class NativeLibrary:
    """A linked module; `execute` is called in a child."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def execute(
        self,
        go: Go,
        values: Sequence[tuple[str, ParamValue]],
        space: Workspace,
        error_pipe: tuple[int, int],
    ) -> tuple[int, Sequence[ImageRef]]:
        """Run `run`. Raises ModuleError: 303 or 603."""
        size = batch_size(go.images)
        with _attached(go.shmid, size) as target:
            offset = 0
            for ref in go.images:
                head = META_SIZE.pack(ref.meta.length)
                for part in (head, space.view(ref.meta), space.view(ref.pixels)):
                    target[offset : offset + len(part)] = part
                    offset += len(part)
        batch = ImageBatch(_MESSAGE_TYPE, len(go.images), size, go.shmid, go.pipeline_id, None)
        keep, params = build_params(values)
        result = self._library.run(
            ctypes.byref(batch), ctypes.byref(params), (ctypes.c_int * 2)(*error_pipe)
        )
        del keep
        try:
            return result.pipeline_id, _take_result(result, go.shmid, space)
        finally:
            if result.shmid != go.shmid and _created_here(result.shmid):
                remove_segment(result.shmid)


def batch_size(images: Sequence[ImageRef | SeenImage]) -> int:
    """Return how many bytes the images take in the flown layout."""
    return sum(META_SIZE.size + ref.meta.length + ref.pixels.length for ref in images)


def create_segment(size_bytes: int) -> int:
    """Return the id of a new private segment; the host owns it. Raises OSError."""
    shmid = int(_LIBC.shmget(_IPC_PRIVATE, max(size_bytes, 1), _IPC_CREAT | 0o600))
    if shmid < 0:
        raise OSError(ctypes.get_errno(), f"System V segment of {size_bytes} bytes")
    return shmid


def give_segment(shmid: int, uid: int, gid: int) -> None:
    """Make a user the owner of a segment. Raises OSError."""
    status = _ShmidDs()
    status.perm.uid, status.perm.gid, status.perm.mode = uid, gid, 0o600
    if _LIBC.shmctl(shmid, _IPC_SET, ctypes.byref(status)) != 0:
        raise OSError(ctypes.get_errno(), f"System V segment for user {uid}")


def remove_segment(shmid: int) -> None:
    """Remove a segment, which may be gone already."""
    _LIBC.shmctl(shmid, _IPC_RMID, None)


def build_params(
    values: Sequence[tuple[str, ParamValue]],
) -> tuple[object, ModuleParameterList]:
    """Return the C form of parameters and what must stay alive while it is used."""
    structs = []
    for key, value in values:
        case = next(number for kind, number in _CASES if isinstance(value, kind))
        union = _Value()
        if isinstance(value, str):
            union.string_value = value.encode()
        elif isinstance(value, float):
            union.float_value = value
        else:
            union.int_value = int(value)
        structs.append(ModuleParameter(key.encode(), case, union))
    pointers = (ctypes.POINTER(ModuleParameter) * max(len(structs), 1))(
        *(ctypes.pointer(item) for item in structs)
    )
    head = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(ModuleParameter)))
    return (structs, pointers), ModuleParameterList(len(structs), head)


def _take_result(result: ImageBatch, shmid: int, space: Workspace) -> Sequence[ImageRef]:
    count, size = result.num_images, result.batch_size
    if result.shmid != shmid and not _created_here(result.shmid):
        raise ModuleError(Code.SHM_ATTACH, f"segment {result.shmid} is not the module's own")
    if count == 0 and size == 0:
        return []
    status = _stat(result.shmid)
    if status is None:
        raise ModuleError(Code.SHM_ATTACH, f"segment {result.shmid} is gone")
    if not 0 < size <= status.size:
        raise ModuleError(Code.RESULT_INVALID, f"batch of {size} bytes in {status.size}")
    with _attached(result.shmid, size) as source:
        place = space.store(source)
    try:
        blocks = split_blocks(space.view(place), count, size)
    except ContentError as error:
        raise ModuleError(Code.RESULT_INVALID, str(error)) from error
    return [
        ImageRef(
            meta=_inside(place, block.meta_offset, block.meta_size),
            pixels=_inside(place, block.pixel_offset, block.pixel_size),
        )
        for block in blocks
    ]


def _inside(place: SegmentRange, offset: int, length: int) -> SegmentRange:
    return SegmentRange(segment=place.segment, offset=place.offset + offset, length=length)


def _stat(shmid: int) -> _ShmidDs | None:
    status = _ShmidDs()
    return status if _LIBC.shmctl(shmid, _IPC_STAT, ctypes.byref(status)) == 0 else None


def _created_here(shmid: int) -> bool:
    status = _stat(shmid)
    return status is not None and status.creator_pid == os.getpid()


@contextlib.contextmanager
def _attached(shmid: int, size: int) -> Iterator[memoryview]:
    address = _LIBC.shmat(shmid, None, 0)
    if address in (None, _SHMAT_FAILED):
        reason = os.strerror(ctypes.get_errno())
        raise ModuleError(Code.SHM_ATTACH, f"segment {shmid}: {reason}")
    view = memoryview((ctypes.c_char * size).from_address(address)).cast("B")
    try:
        yield view
    finally:
        view.release()
        _LIBC.shmdt(address)
