"""Measured speeds: of use when they are there, no harm when they are not."""

from __future__ import annotations

import json

import pytest

from genaug.synthesis.speeds import FILE, keep_speed, known_speed


def test_a_speed_is_known_once_it_was_kept(tmp_path):
    stores = tmp_path / "stores"
    assert known_speed(stores, "sd15") is None
    keep_speed(stores, "sd15", 1.25)
    keep_speed(stores, "sdxl", 4.123456)
    assert (known_speed(stores, "sd15"), known_speed(stores, "sdxl")) == (1.25, 4.12346)
    assert known_speed(stores, "flux") is None
    keep_speed(stores, "sd15", 0.75)
    assert json.loads((stores / FILE).read_text()) == {"sd15": 0.75, "sdxl": 4.12346}
    assert [path.name for path in stores.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "content", [b"", b'{"sd15": 1.', b"\xff\xfe\x00", b"[1, 2]", b"3", b"null", b'{"sd15": "fast"}']
)
def test_a_broken_file_stops_nothing(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    assert known_speed(tmp_path, "sd15") is None
    keep_speed(tmp_path, "sd15", 2.0)
    assert known_speed(tmp_path, "sd15") == 2.0


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path):
    """The images are kept elsewhere, and are there already."""
    (tmp_path / FILE).mkdir()
    assert known_speed(tmp_path, "sd15") is None
    keep_speed(tmp_path, "sd15", 2.0)
