"""Labels and splits of folders and CSV files."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.data import encoded, picture
from tailorbird.dataset import (
    Dataset,
    DataSettings,
    Finding,
    folded_label,
    printable,
    scan,
    similar_label,
    split,
    write_manifest,
)
from tailorbird.errors import DatasetError, SettingsError


def put(path: Path, seed: int) -> Path:
    """A small drawn photo of its own content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture("box", seed, (40, 40))))
    return path


def put_all(root: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        put(root / name, number)
    return root


def of_kind(dataset: Dataset, kind: str) -> list[Finding]:
    return [finding for finding in dataset.findings if finding.kind == kind]


def labels(dataset: Dataset) -> dict[str, tuple[str, str | None]]:
    return {sample.name: (sample.label, sample.split) for sample in dataset.samples}


def test_class_folders_and_nested_labels(tmp_path: Path) -> None:
    dataset = scan(
        put_all(tmp_path, ["shoes/boots/a.jpg", "shoes/sandals/b.jpg", "hats/c.jpg", "shoes/d.jpg"])
    )
    assert dataset.counts == {"hats": 1, "shoes": 1, "shoes/boots": 1, "shoes/sandals": 1}
    assert dataset.classes == tuple(dataset.counts)
    assert dataset.splits == {}
    assert {sample.split for sample in dataset.samples} == {None}
    assert [sample.name for sample in dataset.samples] == sorted(
        sample.name for sample in dataset.samples
    )
    assert all(
        sample.path == tmp_path / sample.name and len(sample.digest) == 64
        for sample in dataset.samples
    )


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Validation", "VAL"])
def test_split_folders_under_their_usual_names(tmp_path: Path, validation: str) -> None:
    dataset = scan(
        put_all(
            tmp_path,
            ["Train/a/1.jpg", "Train/b/c/2.jpg", f"{validation}/a/3.jpg", "test/b/c/4.jpg"],
        )
    )
    assert dataset.splits == {
        "train": {"a": 1, "b/c": 1},
        "validation": {"a": 1},
        "test": {"b/c": 1},
    }


def test_a_class_called_train_stays_a_class(tmp_path: Path) -> None:
    assert scan(put_all(tmp_path / "flat", ["train/1.jpg", "bus/2.jpg", "tram/3.jpg"])).classes == (
        "bus",
        "train",
        "tram",
    )
    nested = scan(
        put_all(tmp_path / "nested", ["train/steam/1.jpg", "train/diesel/2.jpg", "bus/city/3.jpg"])
    )
    assert nested.classes == ("bus/city", "train/diesel", "train/steam")


def test_a_test_folder_beside_the_classes_is_a_split(tmp_path: Path) -> None:
    dataset = scan(put_all(tmp_path, ["a/1.jpg", "b/2.jpg", "test/a/3.jpg", "test/b/4.jpg"]))
    assert dataset.splits == {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}}


def test_folders_beside_the_splits_are_reported_and_left_out(tmp_path: Path) -> None:
    root = put_all(
        tmp_path,
        ["train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/b/4.jpg", "extra/a/5.jpg"],
    )
    (root / "docs").mkdir()
    (root / "docs" / "notes.md").write_text("not a photo")
    dataset = scan(root)
    assert len(dataset) == 4
    [finding] = of_kind(dataset, "unsupported")
    assert finding.paths == ("extra/a/5.jpg",)
    assert "beside train/" in finding.message


def test_only_a_test_split(tmp_path: Path) -> None:
    dataset = scan(put_all(tmp_path, ["test/a/1.jpg", "test/b/2.jpg"]))
    assert dataset.splits == {"test": {"a": 1, "b": 1}}
    with pytest.raises(DatasetError, match="no training photo: only test"):
        split(dataset)


def test_photos_without_a_class_folder_are_reported(tmp_path: Path) -> None:
    root = put_all(tmp_path, ["train/a/1.jpg", "train/2.jpg", "test/a/3.jpg", "4.jpg", "5.jpg"])
    dataset = scan(root)
    assert len(dataset) == 2
    found = {finding.paths: finding.message for finding in of_kind(dataset, "unsupported")}
    assert set(found) == {("4.jpg", "5.jpg"), ("train/2.jpg",)}
    assert "directly in train/" in found["train/2.jpg",]
    assert "2 files lie directly" in found["4.jpg", "5.jpg"]


def test_documents_beside_the_photos_are_ignored(tmp_path: Path) -> None:
    root = put_all(tmp_path, ["train/a/1.jpg", "test/a/2.jpg"])
    for name in (
        "README.md",
        "LICENSE",
        "labels.csv",
        "meta.json",
        "notes.txt",
        "train/README",
        "train/labels.csv",
    ):
        (root / name).write_text("words")
    for name in (
        ".DS_Store",
        "train/a/.DS_Store",
        "train/a/Thumbs.db",
        "train/a/desktop.ini",
        "train/a/._1.jpg",
    ):
        (root / name).write_bytes(b"\0\1\2")
    for folder in ("__MACOSX/a", "train/.ipynb_checkpoints", "train/a/.ipynb_checkpoints", ".git"):
        put(root / folder / "x.jpg", 9)
    dataset = scan(root)
    assert len(dataset) == 2
    assert {finding.kind for finding in dataset.findings} <= {"small-class"}


def test_a_file_that_is_no_photo_in_a_class_folder_is_a_finding(tmp_path: Path) -> None:
    root = put_all(tmp_path, ["a/1.jpg", "b/2.jpg"])
    (root / "a" / "notes.txt").write_text("hello")
    (root / "b" / "drawing.svg").write_text("<svg/>")
    found = {finding.paths[0]: finding.message for finding in of_kind(scan(root), "unsupported")}
    assert set(found) == {"a/notes.txt", "b/drawing.svg"}
    assert "SVG" in found["b/drawing.svg"]


def test_names_with_spaces_umlauts_200_characters_and_line_breaks(tmp_path: Path) -> None:
    long = "x" * 200 + ".jpg"
    composed, decomposed = (unicodedata.normalize(form, "Röcke") for form in ("NFC", "NFD"))
    root = put_all(
        tmp_path,
        [
            f"{decomposed}/ä b.jpg",
            f"{composed}/c.jpg",
            f"two words/{long}",
            "a\nb/1.jpg",
            "日本 シャツ/\u3000.jpg",
        ],
    )
    dataset = scan(root)
    assert dataset.counts == {composed: 2, "two words": 1, "a\\nb": 1, "日本 シャツ": 1}
    assert json.loads(json.dumps(dataset.as_dict()))["classes"] == dataset.counts


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102
    Path(os.fsdecode(folder + b"/\xff.jpg")).write_bytes(encoded(picture("box", 1)))
    Path(os.fsdecode(folder + b"/\xfe.jpg")).write_bytes(b"\xff\xd8\xff broken")
    dataset = scan(put(tmp_path / "plain" / "a.jpg", 2).parents[1])
    assert dataset.counts == {"caf\\xe9": 1, "plain": 1}
    assert dataset.samples[0].path.read_bytes()
    assert dataset.samples[0].name == "caf\\xe9/\\xff.jpg"
    assert of_kind(dataset, "unreadable")[0].paths == ("caf\\xe9/\\xfe.jpg",)
    json.dumps(dataset.as_dict(), ensure_ascii=False).encode()
    write_manifest(dataset, tmp_path / "list.csv")
    assert scan(tmp_path / "list.csv").fingerprint == dataset.fingerprint


def test_printable_keeps_ordinary_text() -> None:
    for text in ("a b.jpg", "ä日本\u3000\u00a0", "👗\u200d", "\\"):
        assert printable(text) == text
    assert printable("a\tb\x1b[0m\u2028") == "a\\tb\\x1b[0m\\u2028"
    assert printable("\udce9") == "\\xe9"


def test_links(tmp_path: Path) -> None:
    root = put_all(tmp_path / "set", ["a/1.jpg", "a/2.jpg", "b/3.jpg"])
    outside = put(tmp_path / "other" / "secret.jpg", 7)
    (tmp_path / "set-2").mkdir()
    (root / "a" / "outside.jpg").symlink_to(outside)
    (root / "outside").symlink_to(outside.parent)
    (root / "b" / "sibling").symlink_to(tmp_path / "set-2")
    (root / "c").symlink_to(root / "b")
    (root / "b" / "same.jpg").symlink_to("../a/1.jpg")
    (root / "b" / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "b" / "itself.jpg").symlink_to("itself.jpg")
    dataset = scan(root)
    assert {finding.paths[0] for finding in of_kind(dataset, "outside-link")} == {
        "a/outside.jpg",
        "outside",
        "b/sibling",
        "c/sibling",
    }
    assert labels(dataset) == {
        "a/1.jpg": ("a", None),
        "a/2.jpg": ("a", None),
        "b/3.jpg": ("b", None),
        "b/same.jpg": ("b", None),
        "c/3.jpg": ("c", None),
        "c/same.jpg": ("c", None),
    }
    broken = {finding.paths[0]: finding.message for finding in of_kind(dataset, "unreadable")}
    assert set(broken) == {"b/gone.jpg", "b/itself.jpg", "c/gone.jpg", "c/itself.jpg"}
    assert "does not exist" in broken["b/gone.jpg"]


def test_link_cycles_end(tmp_path: Path) -> None:
    root = put_all(tmp_path, [f"{letter}/1.jpg" for letter in "abcdefgh"])
    for letter in "abcdefgh":
        (root / letter / "root").symlink_to(root)
        (root / letter / "self").symlink_to(root / letter)
        for other in "abcdefgh":
            if other != letter:
                (root / letter / other).symlink_to(root / other)
    dataset = scan(root, data=DataSettings(split_names="none"))
    assert dataset.counts["a"] == 1
    assert len(dataset) == 8 * 8  # each folder itself, and once through each of the links to it


def test_a_dataset_reached_through_a_link(tmp_path: Path) -> None:
    put_all(tmp_path / "real", ["a/1.jpg", "b/2.jpg"])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    dataset = scan(tmp_path / "link")
    assert len(dataset) == 2
    assert not of_kind(dataset, "outside-link")


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_all(tmp_path, ["a/1.jpg"])
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    monkeypatch.chdir(tmp_path / "a")  # a socket's name may have a hundred characters at most
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        found = of_kind(scan(tmp_path), "unsupported")
    assert [finding.paths for finding in found] == [("a/pipe.jpg",), ("a/socket.jpg",)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root / "missing", "does not exist; valid is a folder"),
        (lambda root: root, "it is empty; valid is"),
        (
            lambda root: put(root / "1.jpg", 1).parent,
            "no class folders: 1 files lie directly in the folder itself",
        ),
        (lambda root: put_all(root, ["train/1.jpg", "test/2.jpg"]), "directly in test/, train/"),
        (lambda root: put(root / "1.jpg", 1), "is not a CSV file"),
        (lambda root: root / "a\0b", "cannot be opened"),
        (lambda root: Path("/dev/null"), "neither a folder nor a file"),
    ],
)
def test_invalid_sources(tmp_path: Path, make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(DatasetError, match=said):
        scan(make(tmp_path))


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


SPLITS = {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}}


@pytest.mark.parametrize(
    "folders",
    [("Training", "Testing"), ("train_set", "test_set"), ("TRAIN-DATA", "Test Images"),
     ("trainset", "testset"), ("seg_train", "seg_test"), ("train2017", "test2017"),
     ("my shop train", "my shop test"), ("shapes/train", "shapes/test"),
     ("images/train", "images/test"), ("a wrapper/inside/Training", "a wrapper/inside/Testing"),
     ("seg_train/seg_train", "seg_test/seg_test"), ("train/images", "test/images")],
)  # fmt: skip
def test_splits_under_the_names_that_people_use(tmp_path: Path, folders: tuple[str, str]) -> None:
    names = [f"{folder}/{label}/{label}.jpg" for folder in folders for label in "ab"]
    dataset = scan(put_all(tmp_path, names))
    assert dataset.splits == SPLITS


@pytest.mark.parametrize("validation", ["dev", "dev_set", "Validation", "valset"])
def test_validation_under_the_names_that_people_use(tmp_path: Path, validation: str) -> None:
    names = [f"{split}/{label}/1.jpg" for split in ("train", validation) for label in "ab"]
    assert set(scan(put_all(tmp_path, names)).splits) == {"train", "validation"}


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing")])
def test_splits_inside_the_class_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    dataset = scan(put_all(tmp_path, [f"{c}/{name}/1.jpg" for c in "ab" for name in names]))
    assert dataset.splits == SPLITS


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["fold1/a/1.jpg", "fold1/b/1.jpg", "fold2/a/1.jpg", "fold2/b/1.jpg"], "fold1, fold2"),
        (["a/part1/1.jpg", "a/part2/1.jpg", "b/part1/1.jpg", "b/part2/1.jpg"], "a, b"),
        (["x/A/1.jpg", "x/B/1.jpg", "x/c/1.jpg", "y/a/1.jpg", "y/b/1.jpg"], "x, y"),
    ],
)
def test_folders_that_look_like_splits_are_refused(
    tmp_path: Path, names: list[str], folders: str
) -> None:
    put_all(tmp_path, names)
    with pytest.raises(DatasetError, match=f"folders {folders} hold the same.*--split-names none"):
        scan(tmp_path)
    classes = scan(tmp_path, data=DataSettings(split_names="none")).classes
    assert len(classes) == len(names) and all("/" in label for label in classes)


def test_split_names_say_which_folders_are_splits(tmp_path: Path) -> None:
    put_all(tmp_path / "1", [f"{fold}/{c}/1.jpg" for fold in ("fold1", "fold2") for c in "ab"])
    data = DataSettings(split_names="fold1=train, Fold2=test")
    assert scan(tmp_path / "1", data=data).splits == SPLITS
    put_all(tmp_path / "2", [f"{c}/{part}/1.jpg" for part in ("p1", "p2") for c in "ab"])
    data = DataSettings(split_names={"p1": "train", "p2": "test"})
    assert scan(tmp_path / "2", data=data).splits == SPLITS
    put_all(tmp_path / "3", [f"train/{c}/1.jpg" for c in "ab"] + ["test/a/1.jpg"])
    none = scan(tmp_path / "3", data=DataSettings(split_names={}))
    assert none.classes == ("test/a", "train/a", "train/b")
    with pytest.raises(DatasetError, match=r"there is no folder fold3.*the folders are fold1"):
        scan(tmp_path / "1", data=DataSettings(split_names="fold1=train,fold3=test"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"split_names": "fold1"}, "'fold1' is not FOLDER=SPLIT"),
        ({"split_names": "fold1=holdout"}, "'fold1' is 'holdout'; it must be one of train"),
        ({"near_duplicates": "merge"}, "'merge'; it must be one of group, keep, drop"),
        ({"group_by": "("}, "not a regular expression"),
    ],
)
def test_data_settings_check_themselves(bad: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DataSettings(**bad)  # type: ignore[arg-type]


def test_nested_and_mixed_depth_classes_are_a_finding(tmp_path: Path) -> None:
    root = put_all(
        tmp_path, ["circle/1.jpg", "circle/New folder/2.jpg", "square/batch1/3.jpg", "ring/4.jpg"]
    )
    messages = [finding.message for finding in of_kind(scan(root), "nested-class")]
    assert messages[0].startswith(
        "circle/ holds photos and folders with photos, read as the classes circle, "
        "circle/New folder;"
    )
    assert messages[1] == (
        "2 folders inside others are read as classes of their own: circle/New folder, square/batch1"
    )
    wrapped = scan(put_all(tmp_path / "deep", ["set/a/1.jpg", "set/b/2.jpg"]))
    assert wrapped.classes == ("set/a", "set/b")
    [finding] = of_kind(wrapped, "nested-class")
    assert finding.message.endswith("give set/ itself if it only holds the classes")


def test_classes_that_vanish_are_named(tmp_path: Path) -> None:
    root = put_all(tmp_path, ["a/1.jpg", "b/2.jpg"])
    (root / "empty").mkdir()
    (root / "hidden only").mkdir()
    (root / "hidden only" / ".DS_Store").write_bytes(b"x")
    (root / "broken").mkdir()
    (root / "broken" / "1.jpg").write_bytes(b"not a photo")
    messages = [finding.message for finding in of_kind(scan(root), "missing-class")]
    assert messages == [
        "empty/ is empty: no class is made from it",
        "hidden only/ is empty: no class is made from it",
        "broken is left out as a class: none of its 1 files is a usable photo",
    ]


ALIKE = {
    "circle": ("Circle", "upper and lower case"),
    "two words": ("two  words", "spaces"),
    "hidden": ("hid\u200bden", "invisible characters"),
    "fullwidth": ("ｆullwidth", "spelling that looks the same"),
}


@pytest.mark.parametrize("label", ALIKE)
def test_labels_that_look_alike_are_a_finding(tmp_path: Path, label: str) -> None:
    other, how = ALIKE[label]
    dataset = scan(put_all(tmp_path, [f"{label}/1.jpg", f"{other}/2.jpg", "else/3.jpg"]))
    assert dataset.classes == tuple(sorted(("else", label, other)))
    [finding] = of_kind(dataset, "similar-labels")
    assert f"differ only in {how}" in finding.message
    assert folded_label(label) == folded_label(other) != folded_label("else")
    assert similar_label(label, dataset.classes) == other
    write_manifest(dataset, tmp_path / "list.csv")
    assert scan(tmp_path / "list.csv").fingerprint == dataset.fingerprint


def test_folders_that_differ_in_outer_spaces_or_accents_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Röcke") for form in ("NFC", "NFD"))
    dataset = scan(
        put_all(tmp_path, ["a /1.jpg", "a/2.jpg", f"{composed}/3.jpg", f"{decomposed}/4.jpg"])
    )
    assert dataset.counts == {"Röcke": 2, "a": 2}
    messages = [finding.message for finding in of_kind(dataset, "similar-labels")]
    assert "the folders 'a' and 'a ' are read as one class, a" in messages
    assert any("'Ro\\u0308cke'" in message for message in messages)
    write_manifest(dataset, tmp_path / "list.csv")
    assert scan(tmp_path / "list.csv").fingerprint == dataset.fingerprint


def test_links_that_lead_outside_are_read_on_request(tmp_path: Path) -> None:
    blobs, photos = tmp_path / "blobs", tmp_path / "photos"
    for number, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (photos / name).mkdir(parents=True)
        (photos / name / "x.jpg").symlink_to(put(blobs / f"{number}", number))
    put_all(tmp_path / "nas", ["a/1.jpg", "b/2.jpg"])
    (photos / "valid").symlink_to(tmp_path / "nas")
    with pytest.raises(DatasetError, match=r"outside the dataset: skipped; --follow-links"):
        scan(photos)
    dataset = scan(photos, data=DataSettings(follow_links=True))
    assert dataset.splits == {**SPLITS, "validation": {"a": 1, "b": 1}}
    assert not of_kind(dataset, "outside-link")
    (photos / "train" / "a" / "again").symlink_to(photos)
    assert len(scan(photos, data=DataSettings(follow_links=True))) == len(dataset)


def test_many_links_of_a_folder_are_one_finding(tmp_path: Path) -> None:
    root = put_all(tmp_path / "set", ["a/1.jpg", "b/2.jpg"])
    outside = put(tmp_path / "other.jpg", 9)
    for number in range(20):
        (root / "a" / f"link{number:02}.jpg").symlink_to(outside)
    [finding] = of_kind(scan(root), "outside-link")
    assert len(finding.paths) == 20
    assert finding.message.startswith("20 links in a/ lead outside the dataset: skipped")


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
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
