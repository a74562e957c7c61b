"""The photos of a folder, read in the background: bad files, copies, small pictures made once."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from support.labelling import draw_roll
from tailorbird.backbone import open_backbone
from tailorbird.errors import DatasetError
from tailorbird.features import Embedder
from tailorbird.labelling import gallery as galleries
from tailorbird.labelling.gallery import Gallery, list_photos
from tailorbird.labelling.thumbnails import SIDE, Thumbnails, small_picture


def opened(folder: Path) -> Gallery:
    embedder = Embedder(open_backbone("pocket"))
    return Gallery(folder, list_photos(folder), embedder, Thumbnails())


def read(folder: Path) -> Gallery:
    gallery = opened(folder)
    gallery.start()
    assert gallery.wait(600)
    return gallery


def test_a_folder_with_bad_files_odd_names_and_copies(tmp_path: Path) -> None:
    folder = draw_roll(tmp_path / "Urlaub mit Ärger", 4)
    (folder / "unter ordner").mkdir()
    shutil.copy(folder / "disc-000.jpg", folder / "unter ordner" / "copy ü.jpg")
    larger = picture("box", 1).resize((288, 240))
    (folder / "box again.png").write_bytes(encoded(larger, "PNG"))
    (folder / "broken.jpg").write_bytes(encoded(picture("box", 50))[:300])
    (folder / "text.jpg").write_text("no photo")
    (folder / "README.md").write_text("a document, no photo")
    os.utime(folder / "disc-000.jpg", (1, 1))
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    gallery = read(folder)
    reading = gallery.reading()
    assert (reading.total, reading.done, reading.usable) == (16, 16, 14)
    assert reading.finished and not reading.problem
    assert {gallery.names[i] for i in gallery.errors} == {"broken.jpg", "text.jpg"}
    groups = [{gallery.names[i] for i in group} for group in gallery.groups().values()]
    assert {"disc-000.jpg", "unter ordner/copy ü.jpg"} in groups
    assert {"box-001.jpg", "box again.png"} in groups
    photo = gallery.number["disc-000.jpg"]
    assert np.isfinite(gallery.features[photo]).all() and gallery.features[photo].any()
    gallery.close()
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    assert after == before, "no file was moved or changed"


def test_copies_in_different_chunks_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(galleries, "FIRST", 4)
    monkeypatch.setattr(galleries, "LARGEST", 4)
    folder = draw_roll(tmp_path / "roll", 5)
    for number in range(5):
        larger = picture("disc", number).resize((192, 160))
        (folder / f"larger-{number}.jpg").write_bytes(encoded(larger, quality=90))
    gallery = read(folder)
    groups = {frozenset(gallery.names[i] for i in group) for group in gallery.groups().values()}
    assert groups == {frozenset({f"disc-{n:03}.jpg", f"larger-{n}.jpg"}) for n in range(5)}
    gallery.close()


def test_small_pictures_and_features_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw_roll(tmp_path / "roll", 4)
    first = read(folder)
    digest = bytes.fromhex(first.digests[0])
    assert first.embedder.embedded == 12 and len(first.thumbnails) == 12
    first.close()

    def never(_: Image.Image) -> bytes:
        raise AssertionError("a small picture was made again")

    monkeypatch.setattr(galleries, "small_picture", never)
    second = read(folder)
    assert second.embedder.embedded == 0 and second.reading().usable == 12
    jpeg = second.thumbnails.get(digest)
    assert jpeg is not None and Image.open(io.BytesIO(jpeg)).format == "JPEG"
    assert np.array_equal(first.features, second.features)
    second.close()


def test_a_small_picture_is_small_and_holds_no_metadata() -> None:
    image = picture("disc", 1, (1200, 900))
    image.info["exif"] = b"Exif\0\0secret place"
    small = Image.open(io.BytesIO(small_picture(image)))
    assert small.size == (SIDE, SIDE * 3 // 4) and "exif" not in small.info


def test_a_damaged_file_of_small_pictures_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "thumbnails.sqlite"
    path.write_bytes(b"this is no database" * 100)
    thumbnails = Thumbnails(path)
    thumbnails.put([(b"a" * 32, b"jpeg")])
    thumbnails.close()
    again = Thumbnails(path)
    assert again.get(b"a" * 32) == b"jpeg" and again.get(b"b" * 32) is None
    again.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_processes_share_the_small_pictures(tmp_path: Path) -> None:
    path = tmp_path / "thumbnails.sqlite"
    first, second = Thumbnails(path), Thumbnails(path)
    first.put([(b"a" * 32, b"one")])
    second.put([(b"a" * 32, b"one"), (b"b" * 32, b"two")])
    assert first.get(b"b" * 32) == b"two"
    first.close()
    second.close()


def test_folders_without_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(DatasetError, match="holds no photos"):
        read(tmp_path)


def test_closing_stops_reading(tmp_path: Path) -> None:
    folder = draw_roll(tmp_path / "roll", 40)
    gallery = opened(folder)
    gallery.start()
    gallery.close()
    assert gallery.wait(0) and not gallery.reading().problem
