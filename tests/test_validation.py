from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import SettingsError
from tailorbird.validation import Problems, same_file

JPEG = b"\xff\xd8\xff\xe0 a photo"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of one class with two files that begin as photos do; nothing here decodes them."""
    folder = tmp_path / "photos"
    (folder / "hat").mkdir(parents=True)
    (folder / "hat" / "a.jpg").write_bytes(JPEG)
    (folder / "hat" / "b").write_bytes(JPEG)
    return folder


def refusal(**options: object) -> str:
    """The message of one refused check of outputs."""
    with pytest.raises(SettingsError) as caught, Problems() as problems:
        problems.outputs(**options)  # type: ignore[arg-type]
    return str(caught.value)


def test_all_problems_are_reported_in_one_error() -> None:
    with pytest.raises(SettingsError) as caught, Problems("invalid settings: ") as problems:
        problems.seed(-1)
        problems.seed(-1)
        problems.number("precision", 1.5, 0.5, 1)
        problems.choice("metric", "f1", ("accuracy", "log-loss"))
        problems.need(False, "views and refit exclude each other")
    assert str(caught.value) == (
        "invalid settings: seed is -1; it must be a whole number between 0 and 4294967295; "
        "precision is 1.5; it must be between 0.5 and 1; "
        "metric is 'f1'; it must be one of accuracy, log-loss; views and refit exclude each other"
    )


def test_an_error_inside_the_block_is_not_replaced() -> None:
    with pytest.raises(KeyError), Problems() as problems:
        problems.add("something")
        raise KeyError


@pytest.mark.parametrize("value", [1, 32, np.int64(5)])
def test_whole_numbers_in_range_are_valid(value: object) -> None:
    with Problems() as problems:
        problems.whole("views", value, 1, 32)


@pytest.mark.parametrize("value", [0, 33, 1.0, True, "2", None, float("nan")])
def test_other_values_are_not_whole_numbers_in_range(value: object) -> None:
    with (
        pytest.raises(SettingsError, match=r"views is .*; it must be a whole number between 1 and"),
        Problems() as problems,
    ):
        problems.whole("views", value, 1, 32)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.25)])
def test_numbers_in_range_are_valid(value: object) -> None:
    with Problems() as problems:
        problems.number("dropout", value, 0, 1, below=True)


@pytest.mark.parametrize("value", [1, -0.1, float("nan"), float("inf"), True, "0.5", None])
def test_other_values_are_not_numbers_in_range(value: object) -> None:
    with (
        pytest.raises(SettingsError, match=r"dropout is .*; it must be at least 0 and below 1"),
        Problems() as problems,
    ):
        problems.number("dropout", value, 0, 1, below=True)


def test_the_limits_are_told_as_they_are() -> None:
    with pytest.raises(SettingsError) as caught, Problems() as problems:
        problems.number("rate", 0, 0, above=True)
        problems.number("l2", -1, 0)
        problems.number("share", 2, 0, 1, above=True)
        problems.whole("epochs", 0, 1)
    assert str(caught.value) == (
        "rate is 0; it must be a finite number above 0; "
        "l2 is -1; it must be a finite number of at least 0; "
        "share is 2; it must be above 0 and at most 1; "
        "epochs is 0; it must be a whole number of at least 1"
    )


def test_a_file_name_must_end_as_its_kind_does() -> None:
    with Problems() as problems:
        problems.ending("model file", "shop.ONNX", ".onnx")
        problems.ending("picture", None, ".png")
    with (
        pytest.raises(
            SettingsError, match=r"the picture is 'a\.txt'; its name must end in \.png or \.svg"
        ),
        Problems() as problems,
    ):
        problems.ending("picture", Path("a.txt"), ".png", ".svg")


def test_a_new_file_and_one_that_is_no_input_can_be_written(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "old.onnx").write_bytes(b"old")
    with Problems() as problems:
        problems.outputs(
            {"model": tmp_path / "old.onnx", "report": tmp_path / "new.html", "manifest": None},
            inputs={"photos": photos, "backbone": "pocket", "database": None},
        )
        problems.outputs({"report": photos / "report.html"}, inputs={"photos": photos})


def test_a_folder_and_a_file_in_a_missing_folder_cannot_be_written(tmp_path: Path) -> None:
    assert "is a folder; give the name of a file" in refusal(files={"model": tmp_path})
    missing = tmp_path / "no" / "model.onnx"
    assert "is not a folder that exists" in refusal(files={"model": missing})
    with Problems() as problems:
        problems.outputs({"model": missing}, make_folders=True)
    (tmp_path / "file").write_text("in the way")
    below = tmp_path / "file" / "model.onnx"
    assert "is not a folder" in refusal(files={"model": below}, make_folders=True)


def test_a_folder_that_may_not_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # also for a superuser
    assert "this user may write to" in refusal(files={"model": tmp_path / "model.onnx"})


@pytest.mark.parametrize("way", ["same", "dots", "symlink", "hard link"])
def test_an_output_must_not_be_an_input(tmp_path: Path, way: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n")
    other = tmp_path / "other.csv"
    if way == "symlink":
        other.symlink_to(labels)
    elif way == "hard link":
        os.link(labels, other)
    else:
        other = labels if way == "same" else tmp_path / "." / "x" / ".." / "labels.csv"
        (tmp_path / "x").mkdir()
    message = refusal(files={"manifest": other}, inputs={"labels": labels})
    assert "would overwrite the labels, which this command reads; give another name" in message


def test_the_file_systems_own_rules_decide_whether_names_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("")
    ignores_case = (tmp_path / "LABELS.csv").exists()
    assert same_file(tmp_path / "labels.csv", tmp_path / "LABELS.csv") == ignores_case


def test_two_outputs_must_not_be_one_file(tmp_path: Path) -> None:
    both = {"model": tmp_path / "a.onnx", "report": tmp_path / "." / "a.onnx"}
    assert "the model and the report are both" in refusal(files=both)


@pytest.mark.parametrize(
    "name", ["hat/a.jpg", "hat/b", "hat/new.png", "new.svg", "hat/plain", "hat/r.html"]
)
def test_an_output_must_not_be_taken_for_a_photo(photos: Path, name: str) -> None:
    message = refusal(files={"picture": photos / name}, inputs={"photos": photos})
    assert "lies in the folder of photos" in message and "another folder" in message


def test_a_photo_with_a_documents_name_is_a_photo(photos: Path) -> None:
    (photos / "hat" / "page.html").write_bytes(JPEG)
    target = photos / "hat" / "page.html"
    assert "folder of photos" in refusal(files={"report": target}, inputs={"photos": photos})


def test_links_into_the_folder_of_photos_are_followed(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "page.html").symlink_to(photos / "hat" / "a.jpg")
    (tmp_path / "link").symlink_to(photos)
    for target in (tmp_path / "page.html", tmp_path / "link" / "new.png"):
        assert "folder of photos" in refusal(files={"report": target}, inputs={"photos": photos})


def test_listed_photos_are_compared_only_when_an_output_exists(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(JPEG)
    asked: list[Path] = []

    def listed() -> Iterator[Path]:
        asked.append(photo)
        yield tmp_path / "missing.jpg"
        yield photo

    with Problems() as problems:
        problems.outputs({"picture": tmp_path / "new.png"}, photos=listed())
    assert not asked
    message = refusal(files={"picture": tmp_path / "a.jpg"}, photos=listed())
    assert "would overwrite a photo that is read; give another name" in message


def test_a_name_that_is_not_valid_unicode_can_be_printed(tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    assert "caf\\xe9.onnx" in refusal(files={"model": name / "below.onnx"})
