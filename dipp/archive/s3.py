"""Sources and stores in S3 and what speaks its protocol. Driver; needs the extra `s3`.

Credentials, region and endpoint come from the usual environment (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3, profiles) of whichever
process needs them; they are never sent from one to another. An object appears whole or not at all,
and the record of a result is written after everything else of it: what has no record is no result.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dipp.archive.keys import RECORD_NAME, RESULTS, Input
from dipp.archive.patterns import fixed_part, has_pattern, matcher, without_results
from dipp.archive.places import SourceError, StoreError, is_wanted
from dipp.archive.rooms import locked_room, sweep_rooms

_SCHEME = "s3://"
# Requests under way at once when many small objects are read; the pool holds as many connections.
_READERS = 16
_DELETE_BATCH = 1000
# Directories of results that are being made.
_ROOM_PREFIX = "dipp-archive-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A bucket and a key or prefix in it."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Read `s3://bucket/key`. Raises SourceError."""
        bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
        if not bucket:
            raise SourceError(f"{uri}: wanted s3://bucket/prefix")
        return cls(bucket=bucket, key=key)


@cache
def _client() -> Any:
    """Return the client of this process, made on first use. Raises SourceError."""
    try:
        boto3 = importlib.import_module("boto3")
        config = importlib.import_module("botocore.config")
    except ImportError as error:
        text = f"s3 addresses need boto3: pip install 'cubesat-payload[s3]' ({error})"
        raise SourceError(text) from error
    has_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings = config.Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"max_attempts": 5, "mode": "standard"},
        max_pool_connections=_READERS,
        # Servers other than Amazon's may know neither host names per bucket nor new checksums.
        s3={"addressing_style": "path"} if has_endpoint else {},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with _errors_as(SourceError, "s3"):
        return boto3.client("s3", config=settings)


@contextlib.contextmanager
def _errors_as(kind: type[SourceError] | type[StoreError], what: str) -> Iterator[None]:
    botocore = importlib.import_module("botocore.exceptions")
    try:
        yield
    except (botocore.BotoCoreError, botocore.ClientError, OSError) as error:
        raise kind(f"{what}: {error}") from error


def _is_absent(error: Any) -> bool:
    return str(error.response.get("Error", {}).get("Code")) in ("NoSuchKey", "404", "NotFound")


def _listed(bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        yield from page.get("Contents", ())


# -- sources


def list_objects(uri: str) -> list[Input]:
    """Return what lies below a prefix, matches a glob, or is an object. Raises SourceError."""
    at = Address.parse(uri)
    # First, so that a missing library is told before its errors are looked up.
    _client()
    with _errors_as(SourceError, uri):
        if at.key and not at.key.endswith("/"):
            exact = [each for each in _listed(at.bucket, at.key) if each["Key"] == at.key]
            if exact:
                return [_input_of(at.bucket, exact[0])]
        if has_pattern(at.key):
            match = matcher(at.key)
            found = {each["Key"]: each for each in _listed(at.bucket, fixed_part(at.key))}
            keys = [key for key in found if match.fullmatch(key) and is_wanted(key)]
        else:
            prefix = at.key if not at.key or at.key.endswith("/") else f"{at.key}/"
            found = {each["Key"]: each for each in _listed(at.bucket, prefix)}
            keys = [key for key in without_results(found) if is_wanted(key)]
    return [_input_of(at.bucket, found[key]) for key in sorted(keys)]


def _input_of(bucket: str, entry: Mapping[str, Any]) -> Input:
    stamp = f"{entry['ETag']} {int(entry['LastModified'].timestamp())}"
    return Input(uri=f"{_SCHEME}{bucket}/{entry['Key']}", size_bytes=entry["Size"], stamp=stamp)


def download(entry: Input, room: Path) -> Path:
    """Bring an object into a directory, with its time. Raises SourceError, OSError."""
    at = Address.parse(entry.uri)
    if entry.name in ("", ".", "..") or "\0" in entry.name:
        raise SourceError(f"{entry.uri!r}: no name for a file")
    # Swaths of several prefixes may have one name.
    path = Path(tempfile.mkdtemp(prefix="in-", dir=room)) / entry.name
    _client()
    with _errors_as(SourceError, entry.uri):
        answer = _client().get_object(Bucket=at.bucket, Key=at.key)
        with path.open("wb") as file, contextlib.closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(1 << 20):
                file.write(chunk)
    seconds = int(answer["LastModified"].timestamp())
    os.utime(path, (seconds, seconds))
    return path


# -- store


class Bucket:
    """A store below a prefix."""

    def __init__(self, uri: str) -> None:
        self._at = Address.parse(uri)
        self._prefix = self._at.key.rstrip("/") + "/" if self._at.key else ""
        _client()

    @property
    def uri(self) -> str:
        """Return the address."""
        return f"{_SCHEME}{self._at.bucket}/{self._prefix}".rstrip("/")

    def names(self, below: str = RESULTS) -> Mapping[str, int]:
        """Return all objects below a prefix with their sizes in bytes."""
        with _errors_as(StoreError, f"{self.uri} cannot be listed"):
            skip = len(self._prefix)
            listed = _listed(self._at.bucket, f"{self._prefix}{below.rstrip('/')}/")
            return {each["Key"][skip:]: each["Size"] for each in listed}

    def read(self, name: str) -> bytes | None:
        """Return an object, None if there is none."""
        client_error = importlib.import_module("botocore.exceptions").ClientError
        with _errors_as(StoreError, f"{self.uri}/{name} cannot be read"):
            try:
                answer = _client().get_object(Bucket=self._at.bucket, Key=self._prefix + name)
                with contextlib.closing(answer["Body"]) as body:
                    return bytes(body.read())
            except client_error as error:
                if _is_absent(error):
                    return None
                raise

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Return objects, several requests at once: threads, because this process never forks."""
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(lambda name: (name, self.read(name)), list(names))

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        with _errors_as(StoreError, f"{self.uri}/{name} cannot be written"):
            _client().put_object(Bucket=self._at.bucket, Key=self._prefix + name, Body=data)

    @contextlib.contextmanager
    def workroom(self) -> Iterator[Path]:
        """Give a directory of this machine; those of killed processes are removed."""
        parent = Path(tempfile.gettempdir())
        with contextlib.ExitStack() as stack:
            try:
                sweep_rooms(parent, _ROOM_PREFIX)
                room = stack.enter_context(locked_room(parent, _ROOM_PREFIX))
            except OSError as error:
                raise StoreError(f"{parent} cannot be written: {error.strerror}") from error
            yield room

    def commit(self, work: Path, name: str) -> bool:
        """Write everything and then the record. False if there is a record already."""
        if self.read(f"{name}/{RECORD_NAME}") is not None:
            return False
        files = sorted(each for each in work.iterdir() if each.is_file())
        for path in sorted(files, key=lambda each: each.name == RECORD_NAME):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}") from error
            self.write(f"{name}/{path.name}", data)
        return True

    def remove(self, name: str) -> None:
        """Remove a result, its record first."""
        bucket, prefix = self._at.bucket, f"{self._prefix}{name}/"
        with _errors_as(StoreError, f"{self.uri}/{name} cannot be removed"):
            _client().delete_object(Bucket=bucket, Key=prefix + RECORD_NAME)
            keys = [{"Key": each["Key"]} for each in _listed(bucket, prefix)]
            for at in range(0, len(keys), _DELETE_BATCH):
                batch = {"Objects": keys[at : at + _DELETE_BATCH]}
                _client().delete_objects(Bucket=bucket, Delete=batch)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Do nothing: keys make it harmless to run twice here, only wasteful."""
        yield
