import io
import os
import pty
import re
import select
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import read, write_pictures
from PIL import Image
from torchvision import datasets, transforms

from actbench import data
from actbench.data import decoding

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("caches")


# --- decoded once ---


def forbid(monkeypatch):
    monkeypatch.setattr(decoding, "read_picture", lambda *args: pytest.fail("decoded again"))


def test_pictures_are_decoded_once_and_mapped_into_memory(tmp_path, rng, monkeypatch, caches):
    write_pictures(tmp_path, rng)
    first = read(tmp_path)
    forbid(monkeypatch)

    again = read(tmp_path)

    assert again.tables[0].images.equal(first.tables[0].images)
    assert again.digest() == first.digest()
    (file,) = caches.rglob("*.npy")
    assert np.load(file, allow_pickle=False).shape == (24, 3, 8, 8)
    assert str(file) in Path("/proc/self/maps").read_text()


def touch(path):
    os.utime(path, ns=(1, 1))


def repaint(path):
    """Other pixels in a file of the same size and time."""
    stat = path.stat()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "bmp")
    path.write_bytes(buffer.getvalue())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def add(path):
    shutil.copy(path, path.with_name("zz.bmp"))


def remove(path):
    path.unlink()


def rename(path):
    path.rename(path.with_name("zz.bmp"))


@pytest.mark.parametrize("change", [touch, repaint, add, remove, rename])
def test_a_change_is_noticed(tmp_path, rng, said, change):
    write_pictures(tmp_path, rng, suffix="bmp")
    read(tmp_path)
    change(tmp_path / "cat" / "05.bmp")

    (table,) = data.ImageFolder(str(tmp_path)).read()

    assert re.search("also has 4,736 bytes for earlier pictures .*may be deleted", said[-1])
    expected = datasets.ImageFolder(str(tmp_path), transforms.PILToTensor())
    assert table.labels.tolist() == expected.targets
    for ours, (theirs, _) in zip(table.images, expected, strict=True):
        assert ours.equal(theirs)


def test_other_options_do_not_share_a_file(tmp_path, rng, caches):
    write_pictures(tmp_path, rng)
    options = [{}, {"channels": 1}, {"image_size": 8}, {"image_size": [8, 6]}, {"skip_damaged": True}]

    for option in options:
        read(tmp_path, **option)

    assert len(list(caches.rglob("*.npy"))) == len(options)


def test_an_interrupted_start_leaves_nothing_and_the_next_succeeds(tmp_path, rng, monkeypatch, caches):
    write_pictures(tmp_path, rng)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "progress_of", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path)
    assert not [path for path in caches.rglob("*") if path.is_file() and path.suffix != ".lock"]

    assert len(read(tmp_path).tables[0].images) == 24


def test_two_that_start_at_once_decode_once(tmp_path, rng, monkeypatch):
    write_pictures(tmp_path, rng)
    calls = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *args, **options: calls.append(1) or decode(*args, **options))
    modules = [data.ImageFolder(str(tmp_path)) for _ in range(3)]
    threads = [threading.Thread(target=module.prepare_data) for module in modules]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(calls) == 1
    assert len({module.digest() for module in modules}) == 1


def test_the_folder_of_pictures_is_left_as_it_is(tmp_path, rng):
    write_pictures(tmp_path / "r", rng)
    before = sorted((tmp_path / "r").rglob("*"))

    read(tmp_path / "r")
    read(tmp_path / "r", cache=str(tmp_path / "own"))

    assert sorted((tmp_path / "r").rglob("*")) == before
    assert len(list((tmp_path / "own").rglob("*.npy"))) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, rng):
    write_pictures(tmp_path / "pictures", rng)
    (tmp_path / "file").touch()

    with pytest.raises(data.DataError, match=r"cannot be kept in .*file.*give --data\.cache"):
        read(tmp_path / "pictures", cache=str(tmp_path / "file"))


def test_too_large_for_memory_or_disk_is_said_beforehand_with_both_numbers(tmp_path, rng, monkeypatch, said):
    write_pictures(tmp_path, rng)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(5000, 1000, 4000))
        with pytest.raises(data.DataError, match=r"take 4,608 bytes, and .* has 4,000 left"):
            read(tmp_path)
    monkeypatch.setattr(decoding, "available_memory", lambda: 4607)

    read(tmp_path)

    assert "take 4,608 bytes, and 4,607 bytes of memory are available" in said[0]


V1, V2 = (
    ("memory/", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ("", "max", "current", "inactive_file"),
)


def write_group(root, version, path, *, limit, used, cached=0):
    controller, limit_name, used_name, cached_name = version
    group = root / "sys/fs/cgroup" / controller / path
    group.mkdir(parents=True, exist_ok=True)
    (group / f"memory.{limit_name}").write_text(f"{limit}\n")
    (group / f"memory.{used_name}").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\n{cached_name} {cached}\nfile 3\n")


@pytest.mark.parametrize(
    ("version", "line", "unlimited"),
    [(V2, "0::/a/job", "max"), (V1, "4:memory:/a/job", 2**63 - 4096)],
    ids=["v2", "v1"],
)
def test_the_limit_of_memory_is_that_of_the_processs_groups(tmp_path, version, line, unlimited):
    (tmp_path / "proc/self").mkdir(parents=True)
    assert decoding.available_memory(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal:  900 kB\nMemFree:  7 kB\nMemAvailable:  800 kB\n")
    assert decoding.available_memory(tmp_path) == 800 * 1024
    (tmp_path / "proc/self/cgroup").write_text(f"9:cpu,cpuacct:/other\n{line}\n1:name=systemd:/other\n")
    write_group(tmp_path, version, "other", limit=1, used=0)

    write_group(tmp_path, version, "a/job", limit=unlimited, used=10)
    assert decoding.available_memory(tmp_path) == 800 * 1024
    write_group(tmp_path, version, "a/job", limit=5000, used=3000, cached=700)
    assert decoding.available_memory(tmp_path) == 2700
    write_group(tmp_path, version, "a", limit=4000, used=3500)  # a group is also bound by those around it
    assert decoding.available_memory(tmp_path) == 500


def test_within_a_container_the_limit_is_at_the_top(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/docker/0123\n")  # the path outside of the container
    write_group(tmp_path, V1, "", limit=5000, used=1000)

    assert decoding.available_memory(tmp_path) == 4000


# --- processes and the terminal ---


def decode_slowly(root, cache, taken):
    """In a process of its own: read pictures, each of which takes a while, and say whether they were decoded here."""
    read_one = decoding.read_picture

    def read_slowly(*args):
        time.sleep(0.02)
        return read_one(*args)

    decoding.read_picture = read_slowly
    decode, calls = decoding.decode, []
    decoding.decode = lambda *args, **options: calls.append(1) or decode(*args, **options)
    datamodule = data.ImageFolder(root, cache=cache)
    datamodule.prepare_data()
    taken.put((len(calls), datamodule.digest()))


def test_of_two_processes_that_start_at_once_one_decodes(tmp_path, rng, forked, caches):
    write_pictures(tmp_path, rng, count=60)
    taken = forked.Queue()
    processes = [forked.Process(target=decode_slowly, args=(str(tmp_path), str(caches), taken)) for _ in range(2)]

    for process in processes:
        process.start()
    results = [taken.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)

    assert sorted(calls for calls, _ in results) == [0, 1]
    assert len({digest for _, digest in results}) == 1
    assert results[0][1] == read(tmp_path).digest()


def test_after_a_process_that_was_killed_the_next_decodes(tmp_path, rng, forked, caches):
    write_pictures(tmp_path, rng, count=500)
    taken = forked.Queue()
    killed = forked.Process(target=decode_slowly, args=(str(tmp_path), str(caches), taken))
    killed.start()
    deadline = time.monotonic() + 60
    while not list(caches.rglob(".unfinished.*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert list(caches.rglob(".unfinished.*"))

    (table,) = data.ImageFolder(str(tmp_path), cache=str(caches)).read()

    assert len(table.images) == 1000
    assert not list(caches.rglob(".unfinished.*"))


def test_on_a_terminal_decoding_has_a_bar_with_the_time_left(tmp_path, rng, forked, caches):
    write_pictures(tmp_path, rng, count=100)
    ours, theirs = pty.openpty()
    process = forked.Process(target=decode_on, args=(os.ttyname(theirs), str(tmp_path), str(caches)))
    process.start()
    shown = b""
    while b"200/200" not in shown and select.select([ours], [], [], 60)[0]:
        shown += os.read(ours, 4096)
    process.join(60)
    os.close(ours)
    os.close(theirs)

    assert process.exitcode == 0
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"Decoding pictures\s+\S+.*?200/200\s+\d+:\d\d:\d\d", text)
    assert "Decoding 200 pictures in" not in text  # the line for files and pipes


def decode_on(terminal, root, cache):
    """In a process of its own: read pictures, with the errors' stream on a terminal."""
    sys.stderr = Path(terminal).open("w")  # noqa: SIM115
    os.environ |= {"TERM": "xterm", "COLUMNS": "100"}
    data.ImageFolder(root, cache=cache).prepare_data()
