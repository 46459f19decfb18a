"""Sources and destinations in S3, against a server on this machine."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator

import archivekit as kit
import pytest

from dipp.archive import s3
from dipp.archive.keys import key_of_place
from dipp.archive.places import StoreError, list_inputs, open_store
from dipp.archive.records import Record

boto3 = pytest.importorskip("boto3", reason="the extra s3 is not installed")
server = pytest.importorskip("moto.server", reason="the extra test is not installed")
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def client(endpoint, monkeypatch, tmp_path):
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3._client.cache_clear()
    made = s3._client()
    made.create_bucket(Bucket=tmp_path.name.replace("_", "-"))
    yield made
    s3._client.cache_clear()


@pytest.fixture
def bucket(client, tmp_path):
    return tmp_path.name.replace("_", "-")


def keys_of(client, bucket):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [each["Key"] for page in pages for each in page.get("Contents", ())]


def test_both_ways_with_hostile_names_and_nothing_twice(folder, client, bucket):
    # No line break: the server used here does not find such objects.
    names = ["a/p.png", "b/../p.png", "b/tab\t ü☃'\"<.png", "a b/+&%41.png", "c/p..png"]
    for number, name in enumerate(names):
        told = kit.CRASH if number == 2 else 0
        client.put_object(Bucket=bucket, Key=f"in/{name}", Body=kit.picture(number, told))
    client.put_object(Bucket=bucket, Key="in/readme.txt", Body=b"no input")
    client.put_object(Bucket=bucket, Key="in2/other.png", Body=b"of another prefix")
    words = (folder / "chain/picky.yaml", f"s3://{bucket}/in", "--out", f"s3://{bucket}/in/out")
    status, said = kit.archive(*words)
    assert (status, said["batches"], said["done"], said["quarantined"]) == (1, 5, 4, 1)
    assert said["store"].startswith(f"s3://{bucket}/in/out/picky-")
    prefix = said["store"].removeprefix(f"s3://{bucket}/")
    keys = [key for key in keys_of(client, bucket) if key.startswith(prefix)]
    found = [
        Record.decode(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        for key in keys
        if key.endswith("record.json")
    ]
    uris = sorted(each.uri for record in found for each in record.inputs)
    assert uris == sorted(f"s3://{bucket}/in/{name}" for name in names)
    table = client.get_object(Bucket=bucket, Key=f"{prefix}/results.csv")["Body"].read()
    rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
    assert sorted(row["state"] for row in rows) == ["done"] * 4 + ["failed"]
    assert f"{prefix}/index.html" in keys
    status, said = kit.archive(*words)
    assert (said["batches"], said["done"], said["new_done"], said["wall_s"]) == (5, 4, 0, 0.0)
    # A result without its record is none: what a killed run left is made again.
    (lost,) = [each for each in found if each.inputs[0].uri.endswith("a/p.png")]
    place = f"{prefix}/results/{lost.key[:2]}/{lost.key}"
    client.delete_object(Bucket=bucket, Key=f"{place}/record.json")
    assert kit.archive(*words)[1]["new_done"] == 1
    # The same files in a directory have the same results.
    local = folder / "local"
    local.mkdir()
    (local / "p.png").write_bytes(kit.picture(0))
    _, said = kit.archive(words[0], local, *words[2:])
    assert (said["done"], said["new_done"]) == (1, 0)


def test_from_a_bucket_to_a_directory_with_an_object_that_goes(folder, client, bucket):
    for number in range(2):
        client.put_object(Bucket=bucket, Key=f"x/p{number}.png", Body=kit.picture(number))
    source = f"s3://{bucket}/x/p?.png"
    _, said = kit.archive(folder / "chain/picky.yaml", source, "--out", folder / "out")
    found = kit.records(said["store"])
    assert sorted(r.inputs[0].uri for r in found) == [f"s3://{bucket}/x/p{n}.png" for n in (0, 1)]
    client.put_object(Bucket=bucket, Key="x/p1.png", Body=kit.picture(9))
    _, said = kit.archive(folder / "chain/picky.yaml", source, "--out", folder / "out")
    assert (said["done"], said["new_done"]) == (2, 1)


def test_what_cannot_be_reached_is_told(folder, client, bucket, capsys, monkeypatch):
    pipeline = folder / "chain/picky.yaml"
    source = kit.write_pictures(folder / "in", 1)
    assert kit.archive(pipeline, "s3://no-such-bucket/x", "--out", folder / "out")[0] == 1
    assert "NoSuchBucket" in capsys.readouterr().err
    assert kit.archive(pipeline, source, "--out", "s3://no-such-bucket/x")[0] == 1
    assert "NoSuchBucket" in capsys.readouterr().err
    assert kit.archive(pipeline, "s3://", "--out", folder / "out")[0] == 1
    assert "wanted s3://bucket" in capsys.readouterr().err
    assert kit.archive(pipeline, f"s3://{bucket}/nothing", "--out", folder / "out")[0] == 1
    assert "no files" in capsys.readouterr().err
    s3._client.cache_clear()
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert kit.archive(pipeline, f"s3://{bucket}/x", "--out", folder / "out")[0] == 1
    assert "pip install 'cubesat-payload[s3]'" in capsys.readouterr().err


def test_store_commits_the_record_last_and_only_once(client, bucket, tmp_path, monkeypatch):
    store = open_store(f"s3://{bucket}/deep/store")
    work = tmp_path / "work"
    work.mkdir()
    for name in ("record.json", "a.png", "z.json"):
        (work / name).write_bytes(name.encode())
    written = []
    write = s3.Bucket.write
    monkeypatch.setattr(
        s3.Bucket, "write", lambda self, name, data: (written.append(name), write(self, name, data))
    )
    key = "ab" * 32
    assert store.commit(work, f"results/ab/{key}") is True
    assert [name.rpartition("/")[2] for name in written] == ["a.png", "z.json", "record.json"]
    assert store.commit(work, f"results/ab/{key}") is False
    assert {key_of_place(name) for name in store.names()} == {key}
    assert dict(store.read_many([f"results/ab/{key}/a.png", "none"])) == {
        f"results/ab/{key}/a.png": b"a.png",
        "none": None,
    }
    store.remove(f"results/ab/{key}")
    assert store.names() == {}
    with store.workroom() as room:
        (room / "file").write_bytes(b"x")
    assert not room.exists()
    with pytest.raises(StoreError, match="no-such"):
        open_store("s3://no-such-bucket/x").read("x")


def test_prefixes_objects_and_patterns(client, bucket):
    for key in ("d/a.png", "d/e/b.png", "data.png", "d/[x].png", "d/.hidden.png"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")

    def names(uri):
        return [each.uri.removeprefix(f"s3://{bucket}/") for each in list_inputs(uri)]

    assert names(f"s3://{bucket}/d") == ["d/[x].png", "d/a.png", "d/e/b.png"]
    assert names(f"s3://{bucket}/d/") == names(f"s3://{bucket}/d")
    assert names(f"s3://{bucket}/data.png") == ["data.png"]
    assert names(f"s3://{bucket}/d/[x].png") == ["d/[x].png"]
    assert names(f"s3://{bucket}/d/*.png") == ["d/[x].png", "d/a.png"]
    assert names(f"s3://{bucket}/**/b.png") == ["d/e/b.png"]
    assert len(names(f"s3://{bucket}")) == 4
