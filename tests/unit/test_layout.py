from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from genaug.data.base import Sample
from genaug.data.layout import (
    by_id,
    check_there,
    inner_folder,
    lines_of,
    matlab_array,
    needed,
    number_in,
    rows_of,
    structs_of,
)


def test_the_folder_or_the_one_around_it(tmp_path):
    inner = tmp_path / "SET"
    inner.mkdir()
    (inner / "list.txt").write_text("")
    assert inner_folder(tmp_path, "SET", "list.txt") == inner
    assert inner_folder(inner, "SET", "list.txt") == inner
    (tmp_path / "list.txt").write_text("")
    assert inner_folder(tmp_path, "SET", "list.txt") == tmp_path


def test_lines_know_where_they_stand(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\n\n  two \r\n", encoding="utf-8")
    assert list(lines_of(file, "Get it.")) == [(f"{file}, line 1", "one"), (f"{file}, line 3", "two")]


def test_rows_by_name_whatever_else_there_is(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('extra,y,name\n"a, b",1,x\n,2,y\n')
    assert [row for _, row in rows_of(file, ("name", "y"), "")] == [{"name": "x", "y": "1"}, {"name": "y", "y": "2"}]


@pytest.mark.parametrize(
    ("text", "words"), [("y\n1\n", "no column name"), ("y,name\n1\n", "line 2: has fewer cells"), ("", "no column")]
)
def test_rows_that_lack_something(tmp_path, text, words):
    file = tmp_path / "a.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        list(rows_of(file, ("name", "y"), "Get it again."))
    assert str(file) in str(caught.value)
    assert "Get it again." in str(caught.value)


@pytest.mark.parametrize("count", [1, 3])
def test_structs_of_matlab_know_where_they_stand(tmp_path, count):
    file = tmp_path / "a.mat"
    array = np.array([(n, f"{n}.jpg", 0) for n in range(count)], [("id", "O"), ("fname", "O"), ("more", "O")])
    savemat(file, {"annotations": array[None], "names": np.array(["a/b", "c"][:count], object)[None]})
    assert list(structs_of(file, "annotations", ("fname", "id"), "")) == [
        (f"{file}, annotations({n + 1})", {"fname": f"{n}.jpg", "id": n}) for n in range(count)
    ]
    assert matlab_array(file, "names", "").tolist() == ["a/b", "c"][:count]
    for look, words in (
        (
            lambda: matlab_array(file, "labels", "Get it again."),
            r"no variable 'labels'; it has \['annotations', 'names'\]",
        ),
        (lambda: list(structs_of(file, "annotations", ("id", "class"), "Get it again.")), "has no field class; it has"),
        (lambda: list(structs_of(file, "names", ("id",), "Get it again.")), r"has no field id; it has \[\]"),
    ):
        with pytest.raises(ValueError, match=rf"a\.mat.* {words}.* Get it again\."):
            look()


@pytest.mark.parametrize("content", [b"", b"<html>", b"<!DOCTYPE html><html>" * 40, b"version https://git-lfs" * 9])
def test_what_is_no_file_of_matlab(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a MATLAB file: .* Get it again\."):
        matlab_array(tmp_path / "a.mat", "x", "Get it again.")


def test_what_is_missing_is_named_with_the_remedy(tmp_path):
    for look in (lambda path: needed(path, "Get it."), lambda path: list(lines_of(path, "Get it."))):
        with pytest.raises(FileNotFoundError, match=r"nothing.txt is missing. Get it."):
            look(tmp_path / "nothing.txt")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        list(lines_of(tmp_path / "a.txt", ""))


def test_numbers():
    assert number_in(" 3 ", range(1, 4), "f, line 1", "the class") == 3
    for text, allowed, words in (("4", range(1, 4), "1 to 3"), ("x", (-1, 0, 1), "-1, 0, 1")):
        with pytest.raises(ValueError, match=f"f, line 1: the class is '{text}', expected {words}"):
            number_in(text, allowed, "f, line 1", "the class")


def test_images_that_are_not_there(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    samples = [Sample(name, tmp_path / name, 0) for name in ("b.jpg", "a.jpg")]
    with pytest.raises(FileNotFoundError, match=r"b.jpg is missing, one of 1 images of 2 .* Unpack it."):
        check_there(samples, "Unpack it.")
    check_there(samples[1:], "")
    assert [sample.id for sample in by_id(samples)] == ["a.jpg", "b.jpg"]


def test_samples_are_described_not_read():
    assert Sample("a", Path("a"), 0).mask_values is None
