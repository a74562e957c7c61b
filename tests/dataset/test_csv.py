"""Labels and splits that a scan reads from CSV files, and manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.photo_folders import (
    labels,
    of_kind,
    put,
    put_all,
)
from tailorbird.dataset import (
    scan,
    split,
    write_manifest,
)
from tailorbird.errors import DatasetError


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv(tmp_path: Path) -> None:
    put_all(tmp_path, ["photos/a, b.jpg", "photos/c.jpg", "photos/d.jpg"])
    absolute = put(tmp_path / "elsewhere" / "e.jpg", 8)
    text = (
        'Path,LABEL,Split\r\n"photos/a, b.jpg",shirt,train\r\n\r\n'
        "photos/c.jpg, pants ,VAL\nphotos/d.jpg,shirt,\n"
        f"{absolute},Ro\u0308cke,test\n"
    )
    for start in ("", "\ufeff"):
        assert labels(scan(table(tmp_path, start + text))) == {
            "photos/a, b.jpg": ("shirt", "train"),
            "photos/c.jpg": ("pants", "validation"),
            "photos/d.jpg": ("shirt", "train"),
            str(absolute): ("Röcke", "test"),
        }


def test_csv_without_splits_and_with_other_columns(tmp_path: Path) -> None:
    put_all(tmp_path, ["1.jpg", "2.jpg"])
    dataset = scan(table(tmp_path, "label,id,path\na,7,1.jpg\nb,8,2.jpg\n"))
    assert labels(dataset) == {"1.jpg": ("a", None), "2.jpg": ("b", None)}


def test_every_bad_row_is_reported_with_its_line(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg", 1)
    text = (
        'path,label,split\n1.jpg,a,train\n,a,train\n1.jpg,,test\n"x\ny",a,train\n'
        "1.jpg,a,holdout\n1.jpg,a\n1.jpg,a\x07,\n"
    )
    with pytest.raises(DatasetError) as caught:
        scan(table(tmp_path, text))
    message = str(caught.value)
    assert "5 bad rows" in message
    for part in (
        "line 3: the path is empty",
        "line 4: the label is empty",
        "line 7: the split is 'holdout'; it must be",
        "line 8: 2 columns",
        "line 9: the label",
    ):
        assert part in message


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"50 bad rows(.|\n)*and 30 more"):
        scan(table(tmp_path, "path,label\n" + "x.jpg,\n" * 50))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no header"),
        (b"1.jpg,shirt\n", "no header with the columns path and label"),
        (b"path\tlabel\n", "a header and no rows"),
        (b"path,label,label\n", "once each"),
        (b"path,label\n", "a header and no rows"),
        ("path,label\n".encode("utf-16"), "UTF-16"),
        (b"path,label\n\0", "not a CSV file"),
        (b'path,label\n"a"b,c\n', "line 2: not CSV"),
        (b"path,label\n" + b"x" * 200_000 + b",a\n", "the path has 200,000 characters"),
        (b"path,label\n1.jpg,Gr\xfcn\n", "save the file as CSV UTF-8"),
    ],
)
def test_invalid_csv_files(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        scan(table(tmp_path, text))


def test_a_missing_file_in_a_csv_is_a_finding(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg", 1)
    dataset = scan(table(tmp_path, "path,label\n1.jpg,a\ngone.jpg,a\nfolder,a\n"))
    found = {finding.paths[0]: finding.message for finding in of_kind(dataset, "unreadable")}
    assert found == {"gone.jpg": "no such file", "folder": "no such file"}


def test_manifest_reads_back_as_the_same_dataset(tmp_path: Path) -> None:
    names = ['odd"name/a, b.jpg', "line\nbreak/c.jpg", "röcke/ä.jpg"]
    root = put_all(
        tmp_path / "photos", [f"{part}/{name}" for part in ("train", "test") for name in names]
    )
    dataset = split(scan(root))
    for folder in (tmp_path / "out", root, tmp_path):
        write_manifest(dataset, folder / "manifest.csv")
        again = scan(folder / "manifest.csv")
        assert again.fingerprint == dataset.fingerprint
        assert again.splits == dataset.splits
        assert [sample.path.resolve() for sample in again.samples] == sorted(
            sample.path.resolve() for sample in dataset.samples
        )
    text = (root / "manifest.csv").read_bytes().decode()
    assert text.startswith("path,label,split\r\n")
    assert '"test/odd""name/a, b.jpg","odd""name",test\r\n' in text
    assert str(tmp_path) not in text
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert scan(moved / "out" / "manifest.csv").fingerprint == dataset.fingerprint


def test_manifest_without_splits_and_through_links(tmp_path: Path) -> None:
    root = put_all(tmp_path / "deep" / "photos", ["a/1.jpg", "b/2.jpg"])
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "photos")
    dataset = scan(tmp_path / "link")
    (tmp_path / "elsewhere" / "far").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere" / "far")
    write_manifest(dataset, tmp_path / "out" / "list.csv")
    again = scan(tmp_path / "out" / "list.csv")
    assert again.fingerprint == dataset.fingerprint == scan(root).fingerprint
    assert (tmp_path / "out" / "list.csv").read_bytes().startswith(b"path,label\r\n")


def test_csv_variants_of_spreadsheet_programs(tmp_path: Path) -> None:
    put_all(tmp_path, ["1.jpg", "2.jpg", "b/3.jpg"])
    expected = {"1.jpg": ("a", None), "2.jpg": ("c d", None)}
    for text in (
        "sep=;\r\npath;label\r\n1.jpg;a\r\n2.jpg;c d\r\n",
        '"sep=,"\npath,label\n1.jpg,a\n2.jpg,c d\n',
        "path;label\n1.jpg;a\n2.jpg;c d\n",
        "path\tlabel\n1.jpg\ta\n2.jpg\tc d\n",
        "label, path\na, 1.jpg\nc d, 2.jpg\n",
        f"path,label,notes\n1.jpg,a,{'x' * 200_000}\n2.jpg,c d,\n",
    ):
        assert labels(scan(table(tmp_path, text))) == expected
    with pytest.raises(DatasetError, match="line 3: the label is empty"):
        scan(table(tmp_path, "sep=,\npath,label\n1.jpg,\n"))


def test_csv_paths_with_backslashes_and_home_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(tmp_path, ["b/3.jpg", "home/4.jpg"])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dataset = scan(table(tmp_path, "path,label\nb\\3.jpg,a\n~/4.jpg,b\n"))
    assert dataset.counts == {"a": 1, "b": 1}


def test_a_csv_whose_files_are_all_missing_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"relative paths are looked up in {tmp_path}"):
        scan(table(tmp_path, "path,label\nphotos/1.jpg,a\n"))


def test_labels_of_a_csv_that_are_read_as_one_are_a_finding(tmp_path: Path) -> None:
    put_all(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    text = "path,label\n1.jpg,caf\u00e9\n2.jpg,cafe\u0301\n3.jpg,caf\u00e9 \n"
    dataset = scan(table(tmp_path, text))
    assert dataset.counts == {"caf\u00e9": 3}
    (finding,) = of_kind(dataset, "similar-labels")
    assert finding.message.startswith("the labels ") and "read as one class" in finding.message


def test_spaces_around_paths_and_the_end_mark_of_dos(tmp_path: Path) -> None:
    put_all(tmp_path, ["1.jpg", " 2.jpg"])
    dataset = scan(table(tmp_path, "path,label\r\n 1.jpg ,a\r\n 2.jpg,b\r\n\x1a"))
    assert sorted(sample.path.name for sample in dataset.samples) == [" 2.jpg", "1.jpg"]


@pytest.mark.parametrize("scheme", ["https", "S3", "file"])
def test_addresses_in_a_csv_are_refused_in_words(tmp_path: Path, scheme: str) -> None:
    text = f"path,label\n{scheme}://shop.example/1.jpg,a\n"
    with pytest.raises(DatasetError, match="line 2: the path is an address; download"):
        scan(table(tmp_path, text))
