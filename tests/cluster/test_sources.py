"""Photos of folders, manifests and object stores, and answers written to an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from support.data import encoded, picture
from support.s3_server import BUCKET, s3_server
from tailorbird.cluster.connection import connected
from tailorbird.cluster.partitions import Job
from tailorbird.cluster.running import RaySettings, run
from tailorbird.cluster.sources import Photo, photos_of
from tailorbird.cluster.storage import read, write
from tailorbird.cluster.work import Predict
from tailorbird.dataset.layout import photo_paths
from tailorbird.errors import DatasetError, SettingsError


def jpeg(number: int) -> bytes:
    return encoded(picture("disc", number), "JPEG")


OBJECTS = {
    "photos/a/1.jpg": jpeg(1),
    "photos/a/größe 2.jpg": jpeg(2),
    "photos/a-b/3.jpg": jpeg(3),
    "photos/4.jpg": jpeg(4),
    "photos/broken.jpg": b"nothing",
    "photos/readme.txt": b"a document",
    "list.csv": b"path,label\nphotos/4.jpg,disc\ns3://shop/photos/a/1.jpg,\n",
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server(OBJECTS) as url:
        yield url


def test_a_folder_is_listed_as_a_scan_lists_it(tmp_path: Path) -> None:
    names = ("b/1.jpg", "b-c/2.jpg", "b.jpg", "a.jpg", "b/d/e.jpg", "b/readme.md", ".hidden/3.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [photo.path for photo in photos_of([str(tmp_path)])]
    assert found == [str(path) for path in photo_paths(tmp_path)[0]]
    names_found = [os.path.relpath(path, tmp_path) for path in found]
    assert names_found == ["a.jpg", "b-c/2.jpg", "b.jpg", "b/1.jpg", "b/d/e.jpg"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_lists_photos_beside_it(tmp_path: Path, separator: str) -> None:
    rows = [["path", "label", "split"], ["a b.jpg", "dress", ""], ["/x/y.jpg", "", "test"]]
    text = "\ufeff" + "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8", newline="")
    assert list(photos_of([str(tmp_path / "list.csv")])) == [
        Photo(str(tmp_path / "a b.jpg"), "dress", None),
        Photo("/x/y.jpg", None, "test"),
    ]


def test_a_parquet_file_lists_photos(tmp_path: Path) -> None:
    table = pa.table({"path": ["1.jpg", "s3://b/2.jpg"], "label": ["dress", None], "n": [1, 2]})
    parquet.write_table(table, tmp_path / "list.parquet")
    assert list(photos_of([str(tmp_path / "list.parquet")])) == [
        Photo(str(tmp_path / "1.jpg"), "dress", None),
        Photo("s3://b/2.jpg", None, None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone", None, "does not exist"),
        ("empty", b"", "holds no photos"),
        ("list.csv", b"name\n1.jpg\n", "has no column path"),
        ("list.csv", b"path\n1.jpg\n' '\n \n", "row 3: the path is empty"),
        ("list.csv", b"path\n", "holds no photos"),
        ("list.parquet", b"PAR1 no PAR1", "is not Parquet"),
    ],
)
def test_a_source_that_is_none_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        place = tmp_path / name
        place.write_bytes(content) if content else place.mkdir()
    with pytest.raises(DatasetError, match=message):
        list(photos_of([str(tmp_path / name)]))


def test_a_scheme_nobody_knows_is_refused() -> None:
    with pytest.raises(DatasetError, match="nowhere:// cannot be read"):
        list(photos_of(["nowhere://shop/photos"]))


def test_an_object_store_is_listed_in_order(server: str) -> None:
    found = [photo.path for photo in photos_of([f"s3://{BUCKET}/photos"])]
    assert found == [
        "s3://shop/photos/4.jpg",
        "s3://shop/photos/broken.jpg",
        "s3://shop/photos/a/1.jpg",
        "s3://shop/photos/a/größe 2.jpg",
        "s3://shop/photos/a-b/3.jpg",
    ]
    assert list(photos_of([f"s3://{BUCKET}/list.csv"])) == [
        Photo("s3://shop/photos/4.jpg", "disc"),
        Photo("s3://shop/photos/a/1.jpg"),
    ]
    with pytest.raises(DatasetError, match="does not exist"):
        list(photos_of([f"s3://{BUCKET}/gone"]))


def test_files_of_an_object_store_are_read_and_written(server: str) -> None:
    assert read(f"s3://{BUCKET}/new/one") is None
    write(f"s3://{BUCKET}/new/one", b"content")
    assert read(f"s3://{BUCKET}/new/one") == b"content"


def test_photos_and_answers_in_an_object_store(server: str, trained: Path, tmp_path: Path) -> None:
    """The same answers as from a folder with the same photos, on a cluster and without."""
    for name, content in OBJECTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    task = Predict.of(trained)
    run(Job([str(tmp_path / "photos")], str(tmp_path / "out"), rows=2), task)
    expected = {
        os.path.relpath(row.pop("path"), tmp_path): row
        for part in sorted((tmp_path / "out").glob("part-*.parquet"))
        for row in parquet.read_table(part).to_pylist()
    }
    expected["photos/broken.jpg"]["error"] = None  # the reason is the same, in other words
    with connected(cores=2):
        for output, where in (("here", None), ("there", RaySettings("local", 2))):
            job = Job([f"s3://{BUCKET}/photos"], f"s3://{BUCKET}/{output}", rows=2)
            done = run(job, task, where)
            assert (done.photos, done.failures, done.partitions) == (5, 1, 3)
            assert run(job, task).resumed == 3
            found = {}
            for number in range(3):
                part = read(f"s3://{BUCKET}/{output}/part-{number:05d}.parquet")
                assert part is not None
                for row in parquet.read_table(pa.BufferReader(part)).to_pylist():
                    name = row.pop("path").removeprefix(f"s3://{BUCKET}/")
                    assert (row["error"] is None) == (name != "photos/broken.jpg")
                    found[name] = {**row, "error": None}
            assert found == expected


def test_an_object_that_vanished_is_a_row_with_its_error(
    server: str, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("path\ns3://shop/photos/gone.jpg\n")
    job = Job([str(tmp_path / "list.csv")], str(tmp_path / "out"))
    assert run(job, Predict.of(trained)).failures == 1
    (row,) = parquet.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert (row["path"], row["error"]) == ("s3://shop/photos/gone.jpg", "no such object")


def test_answers_do_not_go_among_the_photos(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(SettingsError, match="lies in the folder of photos"):
        Job([str(tmp_path / "photos")], str(tmp_path / "photos" / "out"))
    with pytest.raises(SettingsError, match="need a folder to be written to"):
        Job([str(tmp_path / "photos")], "")
    with pytest.raises(SettingsError, match="partition_rows is 0"):
        Job([str(tmp_path / "photos")], str(tmp_path / "out"), rows=0)


def test_a_folder_with_other_partitions_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.parquet").write_bytes(b"of another program")
    with pytest.raises(SettingsError, match="were not written by tailorbird"):
        run(Job([str(tmp_path / "photos")], str(tmp_path / "out")), Predict.of(trained))
