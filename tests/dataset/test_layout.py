"""Labels and splits that a scan reads from folders."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from pathlib import Path

import pytest

from support.data import encoded, picture
from support.photo_folders import (
    labels,
    of_kind,
    put,
    put_all,
)
from tailorbird.dataset import (
    DataSettings,
    folded_label,
    printable,
    scan,
    similar_label,
    split,
    write_manifest,
)
from tailorbird.errors import DatasetError, SettingsError


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


def test_a_file_that_is_not_a_photo_in_a_class_folder_is_a_finding(tmp_path: Path) -> None:
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
        "outside/",
        "b/sibling/",
        "c/sibling/",
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


def test_link_cycles_do_not_loop_forever(tmp_path: Path) -> None:
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


def test_split_names_declare_split_folders(tmp_path: Path) -> None:
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


def test_classes_without_usable_photos_are_reported(tmp_path: Path) -> None:
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
def test_similar_labels_are_a_finding(tmp_path: Path, label: str) -> None:
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


def test_links_to_other_folders_are_read_on_request(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("1_train", "2_val", "3_test"), {"train", "validation", "test"}),
        (("train2014", "train2017", "val2017"), {"train", "validation"}),
    ],
)
def test_numbers_beside_the_words_of_splits(
    tmp_path: Path, folders: tuple[str, ...], splits: set[str]
) -> None:
    dataset = scan(put_all(tmp_path, [f"{name}/{c}/1.jpg" for name in folders for c in "ab"]))
    assert dataset.classes == ("a", "b")
    assert set(dataset.splits) == splits


@pytest.mark.parametrize(
    ("folders", "example"),
    [
        (("evaluation", "train"), "train=train,evaluation=test"),
        (("my_holdout", "my_train"), "my_train=train,my_holdout=test"),
        (("a test", "rest"), "a test=test,rest=train"),
        (("Fold1", "Fold2", "Fold3"), "Fold1=train,Fold2=test"),
    ],
)
def test_the_example_for_look_alikes_follows_their_names(
    tmp_path: Path, folders: tuple[str, ...], example: str
) -> None:
    put_all(tmp_path, [f"{name}/{c}/1.jpg" for name in folders for c in "ab"])
    with pytest.raises(DatasetError, match=f"--split-names {example} "):
        scan(tmp_path)
