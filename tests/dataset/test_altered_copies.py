"""Copies turned by any angle, mirrored or cropped are found; other pictures are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from support.data import CLOTHING, encoded, needs_shared
from support.data import busy_picture as drawn
from tailorbird.dataset import Dataset, DataSettings, scan, split
from tailorbird.dataset.duplicates import altered_copies, altered_search
from tailorbird.dataset.duplicates.altered_copies import moved_likeness, moves, neighbours
from tailorbird.dataset.duplicates.corner_store import CornerStore
from tailorbird.dataset.duplicates.local_features import CORNERS, local_features, thumbnail
from tailorbird.images import decode

Change = Callable[[Image.Image], Image.Image]


def cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    x, y = round(width * share * 0.8), round(height * share * 0.3)
    return image.crop((x, y, x + round(width * (1 - share)), y + round(height * (1 - share))))


def turned(image: Image.Image, angle: float) -> Image.Image:
    return image.rotate(angle, Image.Resampling.BICUBIC)


CHANGES: dict[str, Change] = {
    "turned by 3": lambda image: turned(image, 3),
    "turned by -12": lambda image: turned(image, -12),
    "turned by 30": lambda image: turned(image, 30),
    "turned by 102": lambda image: turned(image.transpose(Image.Transpose.ROTATE_90), 12),
    "turned on white": lambda image: image.rotate(20, fillcolor=(255, 255, 255)),
    "cropped by 5%": lambda image: cropped(image, 0.05),
    "cropped by 15%": lambda image: cropped(image, 0.15),
    "cropped by 30%": lambda image: cropped(image, 0.3),
    "mirrored and turned": lambda image: turned(ImageOps.mirror(image), 10),
    "mirrored and cropped": lambda image: cropped(ImageOps.mirror(image), 0.2),
    "turned and darker": lambda image: ImageEnhance.Brightness(turned(image, 8)).enhance(0.8),
    "cropped and brighter": lambda image: ImageEnhance.Brightness(cropped(image, 0.1)).enhance(1.1),
}


def write(folder: Path, pictures: dict[str, Image.Image], quality: int = 88) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / f"{name}.jpg").write_bytes(encoded(picture, quality=quality))
    return folder.parent


def found(dataset: Dataset) -> dict[str, int]:
    return {s.name: p for s, p in zip(dataset.samples, dataset.pictures, strict=True)}


@pytest.mark.parametrize("change", CHANGES)
def test_altered_copies_of_drawings_are_found(tmp_path: Path, change: str) -> None:
    pictures = {}
    for seed in range(8):
        pictures[f"img{seed:02}"] = drawn(seed)
        pictures[f"img{50 + seed:02}"] = CHANGES[change](drawn(seed))
    picture = found(scan(write(tmp_path / "a", pictures), store=False))
    missed = [s for s in range(8) if picture[f"a/img{s:02}.jpg"] != picture[f"a/img{50 + s}.jpg"]]
    assert len(missed) <= 1
    assert len(set(picture.values())) == 8 + len(missed), "different drawings stay apart"


@needs_shared
@pytest.mark.parametrize("change", CHANGES)
def test_altered_copies_of_photos_are_found(tmp_path: Path, change: str) -> None:
    paths = sorted(CLOTHING.glob("test/*/*.jpg"))[::15]
    pictures = {}
    for number, path in enumerate(paths):
        image = decode(path).image
        pictures[f"{number:03}"] = image
        pictures[f"{500 + number:03}"] = CHANGES[change](image)
    picture = found(scan(write(tmp_path / "a", pictures), store=False))
    missed = [
        n for n in range(len(paths)) if picture[f"a/{n:03}.jpg"] != picture[f"a/{500 + n:03}.jpg"]
    ]
    assert len(missed) <= len(paths) // 8
    assert len(set(picture.values())) == len(paths) + len(missed), "different photos stay apart"


def test_copies_of_copies_share_a_group_and_a_split(tmp_path: Path) -> None:
    pictures = {}
    for seed in range(12):
        pictures[f"{seed:02}"] = drawn(seed)
        pictures[f"{seed + 30:02}"] = turned(drawn(seed), 12)
        pictures[f"{seed + 60:02}"] = cropped(drawn(seed), 0.15)
    write(tmp_path / "a", {name: pictures[name] for name in list(pictures)[::2]})
    dataset = scan(write(tmp_path / "b", {name: pictures[name] for name in list(pictures)[1::2]}))
    assert sum(len(f.paths) == 3 for f in dataset.findings) >= 10
    divided = split(dataset)
    for group in set(divided.groups):
        own = [s.split for s, g in zip(divided.samples, divided.groups, strict=True) if g == group]
        assert len(set(own)) == 1


def test_another_thing_before_the_same_background_is_another_picture(tmp_path: Path) -> None:
    """As two products on one table: nearly all corners agree, but not the pixels."""
    pictures = {}
    for number in range(6):
        picture = drawn(99)
        side = drawn(number, (150, 150))
        picture.paste(side, (105, 60))
        pictures[f"{number}"] = turned(picture, 12 * (number % 2))
    assert len(set(found(scan(write(tmp_path / "a", pictures))).values())) == 6


def test_near_duplicates_keep_does_not_search(tmp_path: Path) -> None:
    root = write(tmp_path / "a", {"1": drawn(1), "2": turned(drawn(1), 12)})
    kept = scan(root, data=DataSettings(near_duplicates="keep"))
    assert len(set(kept.groups)) == 2
    assert len(scan(root, data=DataSettings(near_duplicates="drop")).samples) == 1


def test_a_second_scan_reads_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))
    root = write(tmp_path / "photos" / "a", {"1": drawn(1), "2": turned(drawn(1), 12)})
    searches = []
    original = altered_copies.neighbours

    def counted(vectors: np.ndarray) -> altered_copies.Pairs:
        searches.append(len(vectors))
        return original(vectors)

    monkeypatch.setattr(altered_search, "neighbours", counted)
    first = scan(root)
    assert searches == [2] and len(set(first.groups)) == 1
    assert scan(root).groups == first.groups
    assert searches == [2], "one small file holds the result"
    (file,) = (tmp_path / "cache" / "copies").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert scan(root).groups == first.groups
    assert searches == [2, 2], "a damaged file is ignored"
    write(root / "a", {"3": drawn(2)})
    assert len(set(scan(root).groups)) == 2
    assert searches == [2, 2, 3]


@pytest.mark.parametrize("store", [False, True])
def test_corners_are_kept_in_memory_or_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path))
    corners = CornerStore(store)
    digests = [bytes([n]) * 32 for n in range(40)]
    for n, digest in enumerate(digests):
        assert digest not in corners
        corners.see(digest, drawn(n))
    corners.flush()
    expected, vectors = local_features([thumbnail(drawn(7))])
    assert all(digest in corners for digest in digests)
    assert np.array_equal(corners.vectors([digests[7]]), vectors)
    assert np.array_equal(corners.corners([digests[7]]), expected)
    assert (digests[7] in CornerStore(True)) is store
    assert not corners.vectors([b"x" * 32]).any(), "an unknown photo has no corners"
    assert (corners.corners([b"x" * 32])["level"] == -1).all()


def test_mirroring_and_quarter_turns_hardly_change_the_summary() -> None:
    pictures = [drawn(n) for n in range(4)]
    changed = [ImageOps.mirror(p) for p in pictures] + [p.rotate(90, expand=True) for p in pictures]
    _, vectors = local_features([thumbnail(p) for p in [*pictures, *changed]])
    centred = vectors.astype(float) - vectors.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = centred @ centred[:4].T
    assert cosine[4:].argmax(1).tolist() == [0, 1, 2, 3] * 2
    assert cosine[[4, 5, 6, 7], [0, 1, 2, 3]].min() > 0.8


def test_the_move_of_a_turned_crop_is_recovered() -> None:
    first = drawn(3)
    second = cropped(turned(first, 15), 0.1)
    corners, _ = local_features([thumbnail(first), thumbnail(second)])
    move = moves(corners[:1], corners[1:])
    matrix = move.matrix[0]
    assert move.agreeing[0] >= 20
    scale = np.sqrt(np.linalg.det(matrix[:, :2]))
    angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    assert scale == pytest.approx(1 / 0.9, rel=0.03)
    assert angle == pytest.approx(-15, abs=1)
    found = moved_likeness(first, second, matrix)
    assert found is not None and found.same and found.structure > 0.95


def test_pictures_without_corners_have_none() -> None:
    for size in ((1, 1), (2, 300), (300, 2), (40, 40), (300, 300)):
        flat = thumbnail(Image.new("RGB", size, (120, 130, 140)))
        corners, vectors = local_features([flat])
        assert corners.dtype == CORNERS and (corners["level"] == -1).all()
        assert vectors.shape == (1, 512) and not vectors.any()
        assert moves(corners, corners).agreeing.tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_neighbours_in_blocks_are_those_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    vectors = np.random.default_rng(0).integers(-99, 99, (count, 24)).astype(np.int8)
    whole = [side.tolist() for side in neighbours(vectors)]
    monkeypatch.setattr(altered_copies, "_ROWS", 7)
    monkeypatch.setattr(altered_copies, "_COLUMNS", 5)
    assert [side.tolist() for side in neighbours(vectors)] == whole
    unit = altered_copies._whitened(vectors).astype(np.float32)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -9)
    nearest = np.argsort(-cosine, axis=1)[:, : min(altered_copies.NEIGHBOURS, count - 1)]
    pairs = {(min(a, b), max(a, b)) for a in range(count) for b in nearest[a].tolist()}
    assert sorted(pairs) == list(zip(*whole, strict=True))
