"""`dipp archive` over real files through the real process tree, on one machine."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import archivekit as kit
import pytest

from dipp.archive.places import Folder, StoreError
from dipp.cli import main
from dipp.errors import Code
from dipp.testing import no_leaks

pytestmark = pytest.mark.timeout(240)
HOSTILE_NAMES = (
    " a b .png",
    "ü☃ 図.png",
    "new\nline.png",
    "..png",
    "...png",
    "-rf.png",
    "record.png",
    "</script><script>alert(1)</script>.png".replace("/", "\\"),
    "*?[x].png",
    os.fsdecode(b"\xff\xfe.png"),
    "x" * 246 + ".png",
)


def rows_of(store: str, name: str = "results.csv") -> list[dict[str, str]]:
    with (Path(store) / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_are_what_dipp_run_makes_and_a_second_run_does_nothing(folder):
    pictures = kit.write_pictures(folder / "in", 6, {2: kit.CRASH})
    pipeline, out = folder / "chain" / "picky.yaml", folder / "out"
    with no_leaks():
        status, said = kit.archive(pipeline, pictures, "--out", out)
    assert (status, said["done"], said["quarantined"], said["new_done"]) == (1, 5, 1, 5)
    assert main(["run", str(pipeline), str(pictures / "p0001.png"), "--out", str(folder)]) == 0
    (record,) = [each for each in kit.records(said["store"]) if "p0001" in each.inputs[0].uri]
    place = Path(said["store"]) / "results" / record.key[:2] / record.key
    for name in ("p0001.png", "p0001.json"):
        assert (place / name).read_bytes() == (folder / name).read_bytes()
    before = kit.tree(place.parent.parent)
    status, said = kit.archive(pipeline, pictures, "--out", out)
    assert (status, said["new_done"], said["new_quarantined"], said["left"]) == (1, 0, 0, 0)
    assert (said["done"], said["wall_s"]) == (5, 0.0)
    assert kit.tree(place.parent.parent) == before


def test_a_crash_record_says_what_happened(folder):
    pictures = kit.write_pictures(folder / "in", 2, {1: kit.CRASH})
    _, said = kit.archive(folder / "chain/picky.yaml", pictures, "--out", folder / "out")
    (row,) = rows_of(said["store"], "quarantine.csv")
    assert (row["file"], row["code"], row["module_name"]) == ("p0001.png", "600", "picky")
    assert (row["signal"], row["exception"], row["meaning"]) == (
        "11",
        "SIGSEGV",
        "module died by a signal",
    )
    (record,) = [each for each in kit.records(said["store"]) if each.crash]
    assert record.crash.last_log == "about to crash"
    assert "Fatal Python error: Segmentation fault" in record.crash.log
    # What the module saw is shown where there is no result.
    assert record.thumbnail
    table = {row["file"]: row for row in rows_of(said["store"])}
    assert (table["p0000.png"]["state"], table["p0000.png"]["item_kind"]) == ("done", "even")
    page = (Path(said["store"]) / "index.html").read_text("utf-8")
    assert "SIGSEGV" in page
    assert "p0000.png" in page


def test_quarantine_is_left_alone_until_a_retry_is_asked_for(folder):
    pictures = kit.write_pictures(folder / "in", 2, {1: kit.HANG})
    words = (folder / "chain/picky.yaml", pictures, "--out", folder / "out")
    _, said = kit.archive(*words, "--timeout", "0.3")
    assert (said["new_quarantined"], said["done"]) == (1, 1)
    (record,) = [each for each in kit.records(said["store"]) if each.crash]
    # A timeout may be the machine's fault, so it was tried twice.
    assert (record.crash.code, record.attempts) == (Code.TIMEOUT, 2)
    _, said = kit.archive(*words, "--timeout", "0.4")
    assert (said["new_quarantined"], said["quarantined"]) == (0, 1)
    _, said = kit.archive(*words, "--timeout", "0.4", "--retry-failed")
    assert (said["new_quarantined"], said["quarantined"], said["new_done"]) == (1, 1, 0)


def test_changed_code_or_content_makes_new_results_and_nothing_is_mixed(folder):
    pictures, out = kit.write_pictures(folder / "in", 2), folder / "out"
    pipeline = folder / "chain/picky.yaml"
    stores = [kit.archive(pipeline, pictures, "--out", out)[1]["store"]]
    kit.write_chain(folder / "chain", kit.MODULE + "\n# newer\n")
    stores.append(kit.archive(pipeline, pictures, "--out", out)[1]["store"])
    assert len(set(stores)) == 2
    keys = [{record.key for record in kit.records(store)} for store in stores]
    assert all(len(each) == 2 for each in keys)
    assert len(set.union(*keys)) == 4
    for store in stores:
        assert len(rows_of(store)) == 2
    # The old chain finds its results again, and a new content is new work.
    kit.write_chain(folder / "chain")
    (pictures / "p0001.png").write_bytes(kit.picture(77))
    _, said = kit.archive(pipeline, pictures, "--out", out)
    assert (said["store"], said["done"], said["new_done"]) == (stores[0], 2, 1)
    assert len(rows_of(stores[0])) == 2


def test_a_moved_archive_keeps_its_results_and_an_equal_file_is_a_row_of_its_own(folder):
    pictures, out = kit.write_pictures(folder / "in", 2), folder / "out"
    pipeline = folder / "chain/picky.yaml"
    kit.archive(pipeline, pictures, "--out", out)
    shutil.copytree(pictures, folder / "copy")
    _, said = kit.archive(pipeline, pictures, folder / "copy", "--out", out)
    assert (said["batches"], said["done"], said["new_done"]) == (4, 4, 0)
    assert (len(kit.records(said["store"])), len(rows_of(said["store"]))) == (2, 4)
    # The index remembers that the copies were read.
    _, said = kit.archive(pipeline, pictures, folder / "copy", "--out", out)
    assert (said["done"], said["wall_s"]) == (4, 0.0)
    # Without it they are read again and found.
    (Path(said["store"]) / "index.json").write_text("damaged")
    _, said = kit.archive(pipeline, pictures, folder / "copy", "--out", out)
    assert (said["done"], said["new_done"]) == (4, 0)


def test_hostile_names_are_harmless_everywhere(folder):
    inputs = folder / "in" / "a dir\nwith all"
    inputs.mkdir(parents=True)
    for number, name in enumerate(HOSTILE_NAMES):
        (inputs / name).write_bytes(kit.picture(number, kit.CRASH if number == 0 else 0))
    words = (folder / "chain/picky.yaml", folder / "in", "--out", folder / "out d\nx")
    status, said = kit.archive(*words)
    wanted = [name for name in HOSTILE_NAMES if not name.startswith(".")]
    assert (status, said["batches"], said["done"]) == (1, len(wanted), len(wanted) - 1)
    kit.assert_each_once(kit.records(said["store"]), [inputs / name for name in wanted])
    rows = rows_of(said["store"])
    assert "new\nline.png" in [row["file"] for row in rows]
    for path in Path(said["store"], "results").rglob("*"):
        assert set(path.name) & set("\n <>*?'\"") == set()
    page = (Path(said["store"]) / "index.html").read_text("utf-8")
    assert page.count("</script>") == 2
    assert kit.archive(*words)[1]["new_done"] == 0
    # Hidden files are left out unless they are named.
    hidden = [inputs / name for name in HOSTILE_NAMES if name.startswith(".")]
    words = (folder / "chain/picky.yaml", *hidden, "--out", folder / "out2", "--thumbnail", 0)
    status, said = kit.archive(*words)
    assert (status, said["done"]) == (0, 2)
    assert {each.thumbnail for each in kit.records(said["store"])} == {""}


def test_inputs_that_cannot_be_read_are_told_and_tried_again(folder):
    inputs = kit.write_pictures(folder / "in", 1)
    (inputs / "empty.png").write_bytes(b"")
    (inputs / "text.png").write_text("no picture")
    (inputs / "half.png").write_bytes(kit.picture(1)[:40])
    (inputs / "lost.png").symlink_to(folder / "nowhere.png")
    words = (folder / "chain/picky.yaml", f"{inputs}/*.png", "--out", folder / "out")
    status, said = kit.archive(*words)
    assert (status, said["done"], said["quarantined"], said["unreadable"]) == (1, 1, 3, 1)
    rows = {row["file"]: row for row in rows_of(said["store"], "quarantine.csv")}
    assert "No such file" in rows["lost.png"]["log"]
    assert {rows[name]["code"] for name in ("empty.png", "text.png", "half.png")} == {"305"}
    (folder / "nowhere.png").write_bytes(kit.picture(2))
    status, said = kit.archive(*words)
    assert (said["done"], said["new_done"], said["unreadable"]) == (2, 1, 0)


def test_damage_is_repaired_and_results_inside_a_source_are_no_inputs(folder):
    inputs = kit.write_pictures(folder / "in", 3)
    words = (folder / "chain/picky.yaml", inputs, "--out", inputs)
    store = Path(kit.archive(*words)[1]["store"])
    first, second, _ = (each.parent for each in sorted(store.glob("results/*/*/record.json")))
    (first / "record.json").write_text('{"version": 1')
    next(second.glob("*.png")).write_bytes(b"")
    left = store / ".tmp" / "left-by-the-dead"
    left.mkdir(parents=True)
    _, said = kit.archive(*words)
    assert (said["done"], said["new_done"]) == (3, 2)
    assert len(kit.records(store)) == 3
    assert not left.exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("import ctypes", "import nothing_like_it"), "nothing_like_it"),
        (("'int', 0", "'string', 'x'"), "'add' is 0"),
    ],
)
def test_a_chain_that_does_not_load_fails_no_file(folder, capsys, change, text):
    inputs = kit.write_pictures(folder / "in", 2)
    module = kit.MODULE.replace(*change).replace("\nMANIFEST", "\n# run\nMANIFEST")
    kit.write_chain(folder / "chain", module)
    status, said = kit.archive(
        folder / "chain/picky.yaml", inputs, "--out", folder / "out", "--workers", 1
    )
    assert (status, said["left"], said["quarantined"]) == (1, 2, 0)
    assert text in said["problem"]
    assert kit.records(said["store"]) == []


def test_two_commands_do_not_write_to_one_destination(folder, capsys):
    inputs = kit.write_pictures(folder / "in", 1)
    words = (folder / "chain/picky.yaml", inputs, "--out", folder / "out")
    store = kit.archive(*words)[1]["store"]
    with Folder(Path(store)).lock():
        assert kit.archive(*words) == (1, {})
    assert "another dipp archive is writing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["identity", "none/such", "--out", "x"], 1),
        (["identity", ".", "--out", "x", "--scheduler", "tcp://127.0.0.1:1"], 2),
        (["identity", ".", "--out", "x", "--workers", "-1"], 2),
        (["identity", ".", "--out", "x", "--timeout", "0"], 2),
        (["identity", ".", "--out", "x", "--thumbnail", "9999"], 2),
        (["no-such-pipeline", ".", "--out", "x"], 1),
        (["identity", "."], 2),
    ],
)
def test_wrong_use_is_told(tmp_path, monkeypatch, capsys, words, status):
    monkeypatch.chdir(tmp_path)
    if status == 2:
        with pytest.raises(SystemExit) as exit_info:
            main(["archive", *words])
        assert exit_info.value.code == 2
    else:
        assert main(["archive", *words]) == status
    assert capsys.readouterr().err


FULL = """
import json, subprocess, sys
folder, pipeline = sys.argv[1:]
def mount(*words):
    subprocess.run(["mount", *words], check=True)
try:
    mount("-t", "tmpfs", "-o", "size=200k", "tmpfs", folder + "/out")
except (OSError, subprocess.CalledProcessError) as error:
    print(json.dumps({"skip": str(error)}))
    sys.exit(0)
command = [sys.executable, "-m", "dipp", "archive", pipeline, folder + "/in", "--out",
           folder + "/out", "--json"]
first = subprocess.run(command, capture_output=True, text=True)
mount("-o", "remount,size=20m", folder + "/out")
second = subprocess.run(command, capture_output=True, text=True)
print(json.dumps({"first": [first.returncode, first.stdout, first.stderr],
                  "second": [second.returncode, second.stdout, second.stderr]}))
"""


def test_a_full_disk_stops_the_run_and_loses_nothing(folder):
    kit.write_pictures(folder / "in", 40)
    (folder / "out").mkdir()
    script = [sys.executable, "-c", FULL, str(folder), str(folder / "chain/picky.yaml")]
    done = subprocess.run(["unshare", "--mount", *script], capture_output=True, text=True)
    if done.returncode or "skip" in done.stdout:
        pytest.skip(f"no file system of our own to fill: {done.stdout}{done.stderr[-200:]}")
    said = json.loads(done.stdout)
    status, out, error = said["first"]
    assert status == 1
    assert "No space left on device" in error
    first = json.loads(out)
    assert 0 < first["new_done"] < 40
    assert first["left"] == 40 - first["new_done"]
    status, out, error = said["second"]
    second = json.loads(out)
    assert (status, second["done"], error) == (0, 40, "")
    assert second["new_done"] <= 40 - first["new_done"]


def test_a_room_in_use_is_not_swept(tmp_path):
    store = Folder(tmp_path / "store")
    left = tmp_path / "store" / ".tmp" / "dead"
    left.mkdir(parents=True)
    with store.workroom() as room, store.lock():
        assert room.exists()
        assert not left.exists()
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_errors_of_a_directory_are_those_of_the_store(tmp_path, monkeypatch, code):
    store = Folder(tmp_path / "store")

    def fail(*words, **more):
        raise OSError(code, os.strerror(code))

    with store.workroom() as room:
        (room / "out").mkdir()
        monkeypatch.setattr(os, "rename", fail)
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(StoreError, match=os.strerror(code)):
            store.commit(room / "out", "results/aa/aabb")
        with pytest.raises(StoreError, match=os.strerror(code)):
            store.write("results.csv", b"x")
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []
