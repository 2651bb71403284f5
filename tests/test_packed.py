"""The packed cache: the same bits as the direct form, whoever wrote the rows and however it was stopped."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from topfive.datasets.storage import LocalFolder
from topfive.errors import CacheError, ImageError
from topfive.images import load_profile, normalise, preprocess, procedural, profile_names
from topfive.images.packed import ENTRY, HEADER, File, Pack, crop_key, make_crops, refuse_without_room

POCKET = load_profile("pocket64")
SIZE = (64, 64)


def file(name: str, data: bytes) -> File:
    return File(name, lambda: data)


@functools.cache
def drawn(count: int, split: str = "packed tests") -> list[File]:
    return [file(f"{n}.jpg", procedural.encoded(0, split, n)[0]) for n in range(count)]


@pytest.fixture(scope="module")
def files():
    return drawn(12)


@pytest.fixture(scope="module")
def direct(files):
    return make_crops(files, POCKET, SIZE)


def pack(root: Path, count: int = 12) -> Pack:
    return Pack(root, "the list", count, POCKET, SIZE)


# The same bits


@settings(max_examples=30)
@given(
    st.sampled_from([name for name in profile_names() if load_profile(name).picture]),
    arrays.arrays(np.uint8, st.tuples(st.integers(30, 90), st.integers(30, 90), st.just(3))),
    st.sampled_from(["PNG", "JPEG"]),
)
def test_a_packed_row_is_bit_equal_to_the_direct_form(tmp_path_factory, name, pixels, kind):
    profile, root = load_profile(name), tmp_path_factory.mktemp("pack")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    (root / "picture").write_bytes(stream.getvalue())
    size = (24, 24) if profile.size is None or profile.size[0] > 90 else profile.size
    try:
        wanted = preprocess(root / "picture", profile, size)
    except ImageError:
        reject()  # a profile that does not resize, on a picture of another size
    for _ in range(2):  # made, then mapped
        with Pack(root, "x", 1, profile, size) as crops:
            found = normalise(crops.crops([0], [file("picture", stream.getvalue())]), profile)
            assert found[0].tobytes() == wanted.tobytes()
            assert found.dtype == wanted.dtype


def test_rows_are_a_numpy_file_that_can_be_mapped(tmp_path, files, direct):
    with pack(tmp_path) as crops:
        crops.crops(range(12), files)
        mapped = np.load(crops.folder / "crops.npy", mmap_mode="r")
    assert mapped.shape == (12, 64, 64, 3)
    assert mapped.dtype == np.uint8
    assert np.array_equal(mapped, direct)


@given(st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=1, max_size=6))
def test_any_rows_in_any_order(tmp_path_factory, rounds):
    files = drawn(12)
    direct = make_crops(files, POCKET, SIZE)
    root = tmp_path_factory.mktemp("pack")
    seen: set[int] = set()
    for chosen in rounds:
        numbers = sorted(chosen)
        with pack(root) as crops:
            assert crops.missing_bytes(range(12)) == (12 - len(seen)) * 64 * 64 * 3
            found = crops.crops(numbers, [files[n] for n in numbers])
        assert np.array_equal(found, direct[numbers])
        seen |= chosen


def test_profiles_that_differ_in_numbers_only_share_their_crops():
    assert crop_key(load_profile("torchvision"), (224, 224)) != crop_key(
        load_profile("torchvision"), (96, 96)
    )
    assert crop_key(load_profile("mlperf_vgg"), SIZE) != crop_key(load_profile("mlperf_mobilenet"), SIZE)
    assert crop_key(load_profile("alibaba_202_176"), SIZE) == crop_key(
        load_profile("alibaba_202_176_int8"), SIZE
    )


def test_another_decoder_is_another_pack(tmp_path, monkeypatch):
    with pack(tmp_path) as first:
        monkeypatch.setattr("topfive.images.packed.decoder_version", lambda: "pillow 0, libjpeg 0")
        with pack(tmp_path) as second:
            assert first.folder != second.folder


# Content is checked


def test_a_picture_that_changed_is_decoded_again(tmp_path, files, direct):
    with pack(tmp_path) as crops:
        crops.crops(range(12), files)
        other = drawn(2, "others")
        changed = [*files[:5], *other, *files[7:]]
        found = crops.crops(range(12), changed)
        assert np.array_equal(found[:5], direct[:5])
        assert np.array_equal(found[5:7], make_crops(other, POCKET, SIZE))
        assert not np.array_equal(found[5:7], direct[5:7])


@given(st.integers(0, 11), st.integers(0, 64 * 64 * 3 - 1), st.integers(1, 255))
def test_a_damaged_byte_is_never_given_back(tmp_path_factory, row, place, flip):
    files = drawn(12)
    direct = make_crops(files, POCKET, SIZE)
    with pack(tmp_path_factory.mktemp("pack")) as crops:
        crops.crops(range(12), files)
        with (crops.folder / "crops.npy").open("rb+") as stored:
            stored.seek(HEADER + row * crops.row_bytes + place)
            byte = stored.read(1)[0]
            stored.seek(-1, os.SEEK_CUR)
            stored.write(bytes([byte ^ flip]))
        for _ in range(2):
            assert np.array_equal(crops.crops(range(12), files), direct)


def test_a_row_without_its_mark_does_not_count(tmp_path, files, direct):
    with pack(tmp_path) as crops:
        crops.crops(range(12), files)
        with (crops.folder / "index.bin").open("rb+") as index:
            index.seek(3 * ENTRY.size + 36)
            index.write(b"\0\0\0\0")
        assert crops.row(3) is None
        assert crops.missing_bytes(range(12)) == crops.row_bytes
        assert np.array_equal(crops.crops(range(12), files), direct)


def test_a_file_that_was_cut_short_is_said(tmp_path, files):
    with pack(tmp_path) as crops:
        crops.crops(range(12), files)
        os.truncate(crops.folder / "crops.npy", HEADER + 100)
        with pytest.raises(CacheError, match="was cut short while in use"):
            crops.crops(range(12), files)


def test_a_file_with_the_rows_stamp_is_not_read(tmp_path, files, direct):
    stamped = [
        File(file.name, lambda file=file: file.data, bytes([n + 1] * 16)) for n, file in enumerate(files)
    ]
    with pack(tmp_path) as crops:
        assert np.array_equal(crops.crops(range(12), stamped), direct)

        def read():
            raise AssertionError("was read")

        again = [File(file.name, read, file.stamp) for file in stamped]
        assert np.array_equal(crops.crops(range(12), again), direct)
        assert [file.sha256 for file in again] == [file.sha256 for file in files]
        again[3] = File(files[3].name, lambda: files[3].data, b"another stamp !!")  # the same bytes, touched
        assert np.array_equal(crops.crops(range(12), again), direct)
        assert crops.row(3).stamp == b"another stamp !!"
        again[3] = File(files[3].name, lambda: files[4].data, b"a third stamp !!")  # other bytes
        assert np.array_equal(crops.crops([3], [again[3]]), direct[4:5])


def test_a_stamp_changes_with_whatever_is_done_to_a_file(tmp_path, monkeypatch):
    storage = LocalFolder(tmp_path)
    place = tmp_path / "a.jpg"
    place.write_bytes(b"one")
    assert storage.stamp("a.jpg") is None  # too young to be told from its successor
    monkeypatch.setattr("topfive.datasets.storage.SETTLED_NS", 0)
    seen = {storage.stamp("a.jpg")}
    times = place.stat()
    for step in range(3):
        time.sleep(0.02)  # more than a tick of the file system
        if step == 0:
            place.write_bytes(b"two")  # the same size, and the old time put back
            os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
        elif step == 1:
            os.utime(place, ns=(0, 0))
        else:
            other = tmp_path / "b.jpg"
            other.write_bytes(b"two")
            os.utime(other, ns=(0, 0))
            other.replace(place)
        assert storage.stamp("a.jpg") not in seen
        seen.add(storage.stamp("a.jpg"))
    assert storage.stamp("a.jpg") in seen
    with pytest.raises(ImageError, match=r"c\.jpg: cannot be read"):
        storage.stamp("c.jpg")


# Bad pictures


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


WHOLE = encoded(Image.new("RGB", (90, 80), (1, 2, 3)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", r"bad.jpg: is empty \(0 bytes\)", id="empty"),
        pytest.param(b"words", "bad.jpg: is not a picture", id="text"),
        pytest.param(WHOLE[: len(WHOLE) // 2], "bad.jpg: ", id="truncated"),
        pytest.param(encoded(Image.new("1", (20_000, 20_000)), "PNG"), "bad.jpg: has more than", id="bomb"),
    ],
)
def test_a_bad_picture_is_named_and_leaves_no_row(tmp_path, files, data, message):
    with pack(tmp_path) as crops:
        with pytest.raises(ImageError, match=message):
            crops.crops([0, 1], [files[0], file("bad.jpg", data)])
        assert crops.row(1) is None
        assert np.array_equal(crops.crops([0], files[:1]), make_crops(files[:1], POCKET, SIZE))


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encoded(Image.new("CMYK", (80, 80), (0, 0, 0, 0))), 255, id="cmyk"),
        pytest.param(encoded(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"), 9, id="1x1"),
        pytest.param(encoded(Image.new("L", (80, 70), 7), "PNG"), 7, id="grey"),
    ],
)
def test_odd_pictures_are_pictures(tmp_path, data, colour):
    with pack(tmp_path) as crops:
        found = crops.crops([0], [file("odd", data)])
    assert found.shape == (1, 64, 64, 3)
    assert np.all(found == colour)


# Room


def test_no_room_is_said_early_with_the_numbers(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    refuse_without_room(tmp_path / "not/there/yet", free // 2)
    with pytest.raises(
        CacheError, match=r"need \d+\.\d\d GB more and .* has \d+\.\d\d GB free: .*--no-cache"
    ):
        refuse_without_room(tmp_path, 2 * free)


def test_imagenet_needs_7_5_gigabytes(tmp_path):
    with Pack(tmp_path, "imagenet", 50_000, load_profile("torchvision"), (224, 224)) as crops:
        assert crops.missing_bytes(range(50_000)) == 50_000 * 224 * 224 * 3 == 7_526_400_000
        assert (crops.folder / "crops.npy").stat().st_blocks < 100  # nothing is taken before it is used


def test_a_disk_that_fills_up_in_the_middle(tmp_path, files, direct):
    """The kernel's own refusal: no file may grow past 0 bytes from here on, as on a full disk."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_packed import drawn, pack
from topfive.errors import CacheError
files = drawn(12)
with pack(Path({str(tmp_path)!r})) as crops:
    crops.crops(range(5), files[:5])
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        crops.crops(range(5, 12), files[5:])
    except CacheError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "the file size limit is reached; free some space" in done.stdout
    with pack(tmp_path) as crops:
        assert [crops.row(n) is not None for n in range(12)] == [True] * 5 + [False] * 7
        assert np.array_equal(crops.crops(range(12), files), direct)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_is_called_full(tmp_path, files):
    with pack(tmp_path) as crops:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, crops._crops)
        os.close(full)
        with pytest.raises(CacheError, match="the disk is full"):
            crops.crops([0], files[:1])
        assert crops.row(0) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CacheError, match="Permission denied"):
            pack(tmp_path)
    finally:
        tmp_path.chmod(0o700)


# Many writers, and kills


def _fill(root: Path, order: list[int]) -> None:
    files = drawn(12)
    with pack(root) as crops:
        for number in order:
            crops.crops([number], [files[number]])


def test_processes_write_the_same_pack_at_once(tmp_path, files, direct):
    context = multiprocessing.get_context("fork")
    orders = [list(range(12)), list(reversed(range(12))), [*range(6, 12), *range(6)]]
    crowd = [context.Process(target=_fill, args=(tmp_path, order)) for order in orders]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0, 0, 0]
    with pack(tmp_path) as crops:
        assert crops.missing_bytes(range(12)) == 0
        assert np.array_equal(crops.crops(range(12), files), direct)


@pytest.mark.parametrize("after", [1, 4, 9], ids=["early", "middle", "late"])
def test_killed_in_the_middle_it_goes_on(tmp_path, files, direct, after):
    process = multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path, list(range(12)) * 50))
    process.start()
    with pack(tmp_path) as crops:
        deadline = time.monotonic() + 60
        while crops.missing_bytes(range(12)) > (12 - after) * crops.row_bytes and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert sum(crops.row(n) is not None for n in range(12)) >= after
        assert np.array_equal(crops.crops(range(12), files), direct)


def test_memory_does_not_grow_with_the_rows_that_are_read(tmp_path):
    """Reading 60 MB of rows in batches leaves the process within 20 MB of where it was."""
    script = f"""
import hashlib, resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_packed import drawn
from topfive.images import load_profile, normalise
from topfive.images.packed import Pack
files = drawn(8)
profile = load_profile("torchvision")
with Pack(Path({str(tmp_path)!r}), "x", 400, profile, (224, 224)) as crops:
    for start in range(0, 400, 8):
        crops.crops(range(start, start + 8), files)
    normalise(crops.crops(range(8), files), profile)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, 400, 8):
        normalise(crops.crops(range(start, start + 8), files), profile)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000
