from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from genaug.synthesis import store as module
from genaug.synthesis.store import Store, content_key, write_atomically


def entry(store: Store, key: str, number: int = 0) -> None:
    store.add(key, {"a.bin": b"abc", "b.npy": np.arange(number + 3, dtype=np.uint8)}, {"number": number})


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def record_file(root: Path) -> Path:
    (file,) = (root / "records").glob("*.jsonl")
    return file


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_depends_on_every_part_and_its_boundaries():
    keys = [
        content_key(*parts)
        for parts in [(), ("",), ("", ""), ("a",), ("ab",), ("a", "b"), ("b", "a"), ("a", "b", ""), (b"\x00a",)]
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)


def test_text_and_its_bytes_have_one_key_that_stays():
    assert content_key("Bäume", "x") == content_key("Bäume".encode(), b"x")
    # Length as 8 little-endian bytes, then the data, through blake2b of 16 bytes: `b2sum -l 128` says the same.
    assert content_key("a", "bc") == "f14abc19c330e936bb9c8506d69bac9b"


# --- a killed process ----------------------------------------------------------------------------------------------


def test_what_was_added_is_there_for_another_process(tmp_path):
    entry(Store(tmp_path), "ab12", number=2)
    again = Store(tmp_path)
    assert list(again) == ["ab12"]
    assert len(again) == 1
    assert again["ab12"].pop("time") <= time.time()
    assert again["ab12"] == {"key": "ab12", "number": 2}
    assert again.path("ab12", "a.bin").read_bytes() == b"abc"
    assert again.array("ab12", "b.npy").tolist() == [0, 1, 2, 3, 4]


def test_the_later_record_of_an_entry_counts(tmp_path, monkeypatch):
    """Whichever process wrote it, and whatever its file is called."""
    first, second = Store(tmp_path), Store(tmp_path)
    for store, name in ((first, "b"), (second, "a")):
        store._own_records = tmp_path / "records" / f"{name}.jsonl"
    first.record("ab12", {"number": 1})
    second.record("ab12", {"number": 2})
    assert Store(tmp_path)["ab12"]["number"] == 2
    first.record("ab12", {"number": 3})
    assert Store(tmp_path)["ab12"]["number"] == 3


def test_what_others_add_is_seen_after_a_look(tmp_path):
    one, other = Store(tmp_path), Store(tmp_path)
    other.record("ab12", {"number": 1})
    assert "ab12" not in one
    one.refresh()
    assert one["ab12"]["number"] == 1
    other.record("cd34", {"number": 2})
    one.refresh()
    assert sorted(one) == ["ab12", "cd34"]


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (4, 3, 2), (3, 0, 4)])
def test_arrays_come_back_as_they_were_and_are_the_callers(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    store = Store(tmp_path)
    store.add("ab12", {"x.npy": array, "swapped.npy": array.T}, {})
    for name, expected in (("x.npy", array), ("swapped.npy", array.T)):
        found = store.array("ab12", name)
        assert found.shape == expected.shape
        assert found.dtype == np.uint8
        assert (found == expected).all()
        assert (found == np.load(store.path("ab12", name))).all()
        found[...] = 7
        assert (store.array("ab12", name) == expected).all()


def test_an_array_that_could_not_be_read_back_is_refused(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(TypeError, match="float64"):
        store.add("ab12", {"x.npy": np.zeros(3)}, {})
    assert "ab12" not in store
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x05\x00{'a'}xyz", b"PNG" * 50]
)
def test_a_file_that_is_no_array_is_named(tmp_path, content):
    store = Store(tmp_path)
    store.add("ab12", {"x.npy": content}, {})
    with pytest.raises(ValueError, match="x.npy is not an array of bytes"):
        store.array("ab12", "x.npy")


@pytest.mark.parametrize("kept", [1, 10, -2, -1])
def test_a_torn_last_record_is_an_entry_that_is_absent(tmp_path, kept):
    store = Store(tmp_path)
    entry(store, "ab12", 1)
    first = record_file(tmp_path).stat().st_size
    entry(store, "cd34", 2)
    whole = record_file(tmp_path).read_bytes()
    second = whole[first:]
    record_file(tmp_path).write_bytes(whole[:first] + second[:kept])
    # Without its newline alone (-1) the record is complete.
    assert sorted(Store(tmp_path)) == (["ab12", "cd34"] if kept == -1 else ["ab12"])


def test_running_again_after_a_torn_record_completes_the_store(tmp_path):
    entry(Store(tmp_path), "ab12", 1)
    record_file(tmp_path).write_bytes(record_file(tmp_path).read_bytes()[:-5])
    again = Store(tmp_path)
    assert "ab12" not in again
    entry(again, "ab12", 1)
    assert Store(tmp_path)["ab12"]["number"] == 1


def test_leftover_files_and_files_without_record_are_no_entry(tmp_path):
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "ab12.a.bin").write_bytes(b"abc")
    (tmp_path / "ab" / ".ab12.b.npy.0123.tmp").write_bytes(b"to")
    store = Store(tmp_path)
    assert "ab12" not in store
    assert len(store) == 0
    entry(store, "ab12")
    assert "ab12" in Store(tmp_path)


def test_a_kill_between_files_and_record_leaves_no_entry(tmp_path, monkeypatch):
    written = []

    def dies_at_the_second(path, data):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        write_atomically(path, data)

    monkeypatch.setattr(module, "write_atomically", dies_at_the_second)
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        entry(store, "ab12")
    assert "ab12" not in store
    assert "ab12" not in Store(tmp_path)


def test_a_record_that_failed_half_way_does_not_spoil_the_next(tmp_path):
    store = Store(tmp_path)
    entry(store, "ab12", 1)
    with record_file(tmp_path).open("a") as file:  # the disk was full for a moment
        file.write('{"key": "cd34", "num')
    entry(store, "ef56", 3)
    assert sorted(Store(tmp_path)) == ["ab12", "ef56"]


# --- several processes ---------------------------------------------------------------------------------------------


def test_two_stores_fill_one_folder(tmp_path):
    one, other = Store(tmp_path), Store(tmp_path)
    for number, key in enumerate(["aa", "bb", "cc", "dd"]):
        entry((one, other)[number % 2], key, number)
    third = Store(tmp_path)
    assert {key: third[key]["number"] for key in third} == {"aa": 0, "bb": 1, "cc": 2, "dd": 3}
    assert len(list((tmp_path / "records").glob("*.jsonl"))) == 2


def test_the_same_entry_made_twice_counts_once(tmp_path):
    one, other = Store(tmp_path), Store(tmp_path)
    entry(one, "aa", 5)
    entry(other, "aa", 5)
    assert len(Store(tmp_path)) == 1


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_failed_write_raises_and_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "deep" / "x.bin", b"abc")
    assert files_of(tmp_path) == []


def test_an_unwritable_folder_raises_and_has_no_entry(tmp_path):
    root = tmp_path / "store"
    root.write_bytes(b"a file where the folder should be")  # not chmod: root may write anywhere
    store = Store(root)
    with pytest.raises(OSError, match="store"):
        entry(store, "ab12")
    assert "ab12" not in store
    assert files_of(tmp_path) == ["store"]


def test_writing_replaces_whole_files(tmp_path):
    write_atomically(tmp_path / "x", b"a long text")
    write_atomically(tmp_path / "x", b"short")
    assert (tmp_path / "x").read_bytes() == b"short"
    assert files_of(tmp_path) == ["x"]


def test_records_are_json_lines(tmp_path):
    store = Store(tmp_path)
    entry(store, "ab12", 1)
    entry(store, "cd34", 2)
    records = [json.loads(line) for line in record_file(tmp_path).read_text().splitlines() if line]
    assert [record["key"] for record in records] == ["ab12", "cd34"]
