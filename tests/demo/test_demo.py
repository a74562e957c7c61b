"""The drawn sample wardrobe: reproducible, complete, and of a suitable difficulty."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import tailorbird
from support.progress import RecordedProgress
from tailorbird import demo
from tailorbird.errors import InputError, SettingsError, StorageError

PER_CLASS = 24


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wardrobe") / "drawn"
    demo.write(folder, per_class=PER_CLASS, seed=7)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_classes() -> None:
    assert demo.CLASSES == (
        "dress",
        "hat",
        "longsleeve",
        "outwear",
        "pants",
        "shirt",
        "shoes",
        "shorts",
        "skirt",
        "t-shirt",
    )


def test_written_files_are_rgb_jpegs_in_class_folders_and_a_readme(drawn: Path) -> None:
    expected = {f"{c}/{c}-{n:04d}.jpg" for c in demo.CLASSES for n in range(1, PER_CLASS + 1)}
    assert set(contents(drawn)) == expected | {"README.txt"}
    for name in expected:
        with Image.open(drawn / name) as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert min(image.size) >= 200 and max(image.size) <= 400


def test_all_pictures_differ(drawn: Path) -> None:
    hashes = {
        hashlib.sha256(np.asarray(Image.open(p)).tobytes()).digest() for p in drawn.rglob("*.jpg")
    }
    assert len(hashes) == PER_CLASS * len(demo.CLASSES)


def test_the_seed_determines_the_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        demo.write(tmp_path / name, per_class=1, seed=seed)
    one, same, other = (contents(tmp_path / name) for name in "abc")
    assert one == same
    assert set(one) == set(other) and not [name for name in one if one[name] == other[name]]


def test_more_pictures_per_class_keep_the_first_ones(drawn: Path, tmp_path: Path) -> None:
    demo.write(tmp_path / "small", per_class=1, seed=7)
    small = contents(tmp_path / "small")
    del small["README.txt"]
    assert small.items() <= contents(drawn).items()


def test_the_box_encloses_the_garment() -> None:
    busier = []
    for label in demo.CLASSES:
        for seed in range(6):
            drawing = demo.draw(label, seed)
            (left, top, right, bottom), (width, height) = drawing.box, drawing.image.size
            assert drawing.label == label and drawing.image.mode == "RGB"
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert 0.12 < (right - left) * (bottom - top) / (width * height) <= 1
            without_noise = drawing.image.convert("L").filter(ImageFilter.GaussianBlur(3))
            edges = np.hypot(*np.gradient(np.asarray(without_noise, float)))
            outside = np.ones(edges.shape, bool)
            outside[top:bottom, left:right] = False
            if outside.mean() > 0.1:
                busier.append(edges[~outside].mean() > edges[outside].mean())
    assert (
        len(busier) > 40 and np.mean(busier) > 0.85
    )  # seams and outlines lie inside; tiles and books outside


def test_size_sets_width_and_height() -> None:
    assert demo.draw("hat", 1, size=(64, 1024)).image.size == (64, 1024)
    assert demo.draw("dress", 1, size=(500, 333)).image.size == (500, 333)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: demo.draw("sock", 0), "label is 'sock'; it must be one of dress, hat"),
        (lambda: demo.draw("hat", -1), "seed is -1"),
        (
            lambda: demo.draw("hat", 0, size=(20, 256)),
            "width is 20; it must be a whole number between 64 and 1024",
        ),
        (lambda: demo.write(Path("nowhere"), per_class=0), "per_class is 0"),
        (lambda: demo.write(Path("nowhere"), seed=-2), "seed is -2"),
    ],
)
def test_values_out_of_range_are_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        call()
    assert not Path("nowhere").exists()


def test_drawing_again_replaces_drawings_and_keeps_other_files(tmp_path: Path) -> None:
    demo.write(tmp_path, per_class=2, seed=1)
    mine = tmp_path / "dress" / "mine.jpg"
    mine.write_bytes(b"a photo of mine")
    progress = RecordedProgress()
    demo.write(tmp_path, per_class=1, seed=2, progress=progress)
    assert progress.steps == [(n, 10) for n in range(1, 11)]
    assert mine.read_bytes() == b"a photo of mine"
    assert sorted(p.name for p in (tmp_path / "dress").iterdir()) == ["dress-0001.jpg", "mine.jpg"]
    demo.write(tmp_path / "fresh", per_class=1, seed=2)
    over = {
        name: data for name, data in contents(tmp_path).items() if not name.startswith("fresh/")
    }
    assert over == contents(tmp_path / "fresh") | {"dress/mine.jpg": b"a photo of mine"}


@pytest.mark.parametrize("name", ["photo.jpg", "README.txt", "dress/dress-0001.jpg"])
def test_a_folder_with_other_files_is_refused_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"not a drawing")
    with pytest.raises(InputError, match=r"holds other files.*choose an empty or new folder"):
        demo.write(tmp_path, per_class=1)
    assert contents(tmp_path) == {name: b"not a drawing"}


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("text")
    with pytest.raises(InputError, match="is a file, not a folder"):
        demo.write(tmp_path / "photos", per_class=1)
    with pytest.raises(StorageError, match="could not be written"):
        demo.write(tmp_path / "photos" / "deeper", per_class=1)


def test_the_default_training_learns_it_but_makes_mistakes(drawn: Path, tmp_path: Path) -> None:
    found = tailorbird.train(drawn, tmp_path / "model.onnx", report=False)
    assert 0.7 < found.test.accuracy < 0.99  # neither by chance nor without a mistake
