"""Copies of a picture are found; different pictures are not taken for copies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from support.data import CLOTHING, SHARED, MakeDataset, draw_dataset, encoded, needs_shared, picture
from tailorbird.dataset import Dataset, Finding, Sample, scan
from tailorbird.dataset.duplicates import groups, hash_neighbours
from tailorbird.dataset.duplicates.facts import FACTS, oriented_hashes, perceptual_hash
from tailorbird.dataset.duplicates.groups import duplicate_groups
from tailorbird.dataset.duplicates.hash_neighbours import Pairs, near_pairs
from tailorbird.dataset.duplicates.similarity import (
    DECODED,
    ORIENTATIONS,
    blur,
    compare,
    orient,
    prepare,
    sketch,
    sketches_agree,
)
from tailorbird.images import decode


def scene(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A drawn still life with enough in it to tell it from every other."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(v) for v in random.integers(120, 240, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = random.uniform(0, size[0]), random.uniform(0, size[1])
        w, h = random.uniform(20, 150, 2)
        colour = tuple(int(v) for v in random.integers(10, 245, 3))
        if random.random() < 0.5:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        else:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
    return image


def brighter(image: Image.Image, factor: float) -> Image.Image:
    return image.point([min(255, round(value * factor)) for value in range(256)] * 3)


def turned(image: Image.Image) -> bytes:
    """Stored on its side, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


def copies(image: Image.Image) -> dict[str, bytes]:
    width, height = image.size
    dx, dy = round(width * 0.03), round(height * 0.03)
    return {
        "quality 40": encoded(image, quality=40),
        "quality 90": encoded(image, quality=90),
        "half": encoded(image.resize((width // 2, height // 2)), quality=85),
        "brighter": encoded(brighter(image, 1.1), quality=90),
        "darker": encoded(brighter(image, 0.9), quality=90),
        "contrast": encoded(ImageEnhance.Contrast(image).enhance(1.1), quality=90),
        "cropped": encoded(image.crop((dx, 0, width, height - dy)), quality=90),
        "png": encoded(image, "PNG"),
        "webp": encoded(image, "WEBP", quality=75),
        "exif": turned(image),
        "all": encoded(
            brighter(image.crop((dx // 2, dy // 2, width, height)), 1.05).resize(
                (width // 2, height // 2)
            ),
            quality=70,
        ),
    }


def kinds(dataset: Dataset) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in dataset.findings:
        found.setdefault(finding.kind, []).append(finding)
    return found


def write_copies(folder: Path, originals: list[Image.Image]) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(originals):
        (folder / f"{number:02} original.jpg").write_bytes(encoded(image, quality=95))
        for name, data in copies(image).items():
            (folder / f"{number:02} {name}").write_bytes(data)
    return folder.parent


def test_only_copies_of_drawn_scenes_are_found(tmp_path: Path) -> None:
    dataset = scan(write_copies(tmp_path / "a", [scene(seed) for seed in range(8)]))
    near = kinds(dataset)["near-duplicate"]
    assert [len(finding.paths) for finding in near] == [12] * 8
    assert all(len({path[:4] for path in finding.paths}) == 1 for finding in near)
    assert near[0].message == "12 copies of one picture of a"
    assert len(set(dataset.groups)) == 8


@needs_shared
def test_copies_of_photos_are_found(tmp_path: Path) -> None:
    """On real photos, some before plain walls, at most one copy of each kind is missed."""
    paths = sorted(CLOTHING.glob("test/*/*.jpg"))[::24]
    dataset = scan(write_copies(tmp_path / "a", [decode(path).image for path in paths]))
    group = dict(zip((sample.name for sample in dataset.samples), dataset.groups, strict=True))
    for name in copies(scene(0)):
        found = [
            group[f"a/{number:02} original.jpg"] == group[f"a/{number:02} {name}"]
            for number in range(len(paths))
        ]
        assert found.count(False) <= 1, name
    assert len(set(dataset.groups)) >= len(paths), "different photos stay apart"


@needs_shared
def test_the_trashnet_photos() -> None:
    """35 pairs, inspected by hand, show one object in one place; 3 are one file with two labels."""
    dataset = scan(SHARED / "data" / "trashnet")
    found = kinds(dataset)
    assert {kind: len(findings) for kind, findings in found.items()} == {
        "conflicting-label": 3,
        "near-duplicate": 32,
    }
    assert {finding.paths for finding in found["conflicting-label"]} == {
        ("glass/glass115.jpg", "metal/metal91.jpg"),
        ("glass/glass176.jpg", "plastic/plastic152.jpg"),
        ("glass/glass389.jpg", "plastic/plastic332.jpg"),
    }


@needs_shared
def test_hands_against_the_same_wall_are_different_photos() -> None:
    assert not kinds(scan(SHARED / "data" / "sign-digits"))


def test_drawings_that_differ_in_colour_and_place_are_different(tmp_path: Path) -> None:
    assert not kinds(scan(draw_dataset(tmp_path, count=80)))


def shirt(colour: tuple[int, int, int], device: str = "") -> Image.Image:
    """The same cut on the same wall every time, as in a shop's catalogue."""
    image = Image.new("RGB", (300, 300), (238, 238, 236))
    draw = ImageDraw.Draw(image)
    draw.polygon(
        [
            (90, 60),
            (130, 50),
            (170, 50),
            (210, 60),
            (270, 120),
            (235, 150),
            (210, 125),
            (210, 260),
            (90, 260),
            (90, 125),
            (65, 150),
            (30, 120),
        ],
        fill=colour,
    )
    if device == "disc":
        draw.ellipse((120, 120, 180, 180), fill=(250, 250, 60))
    elif device == "bars":
        for x in (115, 140, 165):
            draw.rectangle((x, 110, x + 12, 200), fill=(250, 250, 60))
    return image


def test_one_cut_in_another_colour_or_with_another_print_is_another_product(tmp_path: Path) -> None:
    (tmp_path / "shirts").mkdir()
    colours = {
        "red": (180, 30, 40),
        "blue": (40, 50, 170),
        "green": (30, 130, 60),
        "black": (25, 25, 28),
        "pink": (235, 150, 170),
    }
    for name, colour in colours.items():
        for device in ("", "disc", "bars"):
            (tmp_path / "shirts" / f"{name}{device}.jpg").write_bytes(
                encoded(shirt(colour, device), quality=92)
            )
    assert not {"near-duplicate", "duplicate"} & set(kinds(scan(tmp_path)))


@pytest.mark.parametrize("turn", list(Image.Transpose))
def test_mirrored_and_turned_copies_are_found(tmp_path: Path, turn: Image.Transpose) -> None:
    (tmp_path / "a").mkdir()
    for seed in range(6):
        image = scene(seed)
        image.save(tmp_path / "a" / f"{seed} original.png")
        for name, data in copies(image.transpose(turn)).items():
            (tmp_path / "a" / f"{seed} {name}").write_bytes(data)
    dataset = scan(tmp_path, store=False)
    near = kinds(dataset)["near-duplicate"]
    assert all(len({path[:3] for path in finding.paths}) == 1 for finding in near)
    original = dict(zip((s.name for s in dataset.samples), dataset.groups, strict=True))
    for name in copies(scene(0)):
        missed = [
            s for s in range(6) if original[f"a/{s} original.png"] != original[f"a/{s} {name}"]
        ]
        assert len(missed) <= 1, name


@needs_shared
def test_mirrored_and_turned_copies_of_photos_are_found(tmp_path: Path) -> None:
    paths = sorted(CLOTHING.glob("test/*/*.jpg"))[::12]
    (tmp_path / "a").mkdir()
    turns = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90)
    for number, path in enumerate(paths):
        image = decode(path).image
        for turn in turns:
            copy = encoded(image.transpose(turn), quality=90)
            (tmp_path / "a" / f"{number:02} {turn.name}.jpg").write_bytes(copy)
        (tmp_path / "a" / f"{number:02} original.jpg").write_bytes(encoded(image, quality=95))
    dataset = scan(tmp_path)
    group = dict(zip((s.name for s in dataset.samples), dataset.groups, strict=True))
    for turn in turns:
        missed = [
            number
            for number in range(len(paths))
            if group[f"a/{number:02} original.jpg"] != group[f"a/{number:02} {turn.name}.jpg"]
        ]
        assert len(missed) <= len(paths) // 20, turn
    assert len(set(dataset.groups)) >= len(paths), "different photos stay apart"


def test_hashes_of_turned_sketches_are_those_of_the_turned_picture() -> None:
    sketches = np.stack([sketch(scene(seed)) for seed in range(5)])
    hashes = oriented_hashes(sketches)
    for orientation in range(ORIENTATIONS):
        turned = orient(sketches, orientation)
        assert [perceptual_hash(one) for one in turned] == hashes[orientation].tolist()


def test_kinds_of_findings(tmp_path: Path) -> None:
    def put(name: str, data: bytes) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)

    for number, where in enumerate(
        ("train/a", "train/b", "validation/a", "validation/b", "test/a", "test/b")
    ):
        for extra in range(10):
            put(f"{where}/{extra}.jpg", encoded(scene(100 * number + extra)))
    pictures = [encoded(scene(1000 + seed)) for seed in range(6)]
    resaved = [encoded(scene(1000 + seed), quality=60) for seed in range(6)]
    put("train/a/exact1.jpg", pictures[0])
    put("train/a/exact2.jpg", pictures[0])
    put("train/a/near1.jpg", pictures[1])
    put("train/a/near2.jpg", resaved[1])
    put("train/a/leak.jpg", pictures[2])
    put("test/a/leak.jpg", resaved[2])
    put("train/a/conflict.jpg", pictures[3])
    put("train/b/conflict.jpg", pictures[3])
    put("validation/a/both.jpg", pictures[4])
    put("test/b/both.jpg", pictures[4])
    dataset = scan(tmp_path)
    found = {
        kind: [(finding.paths, finding.message) for finding in findings]
        for kind, findings in kinds(dataset).items()
    }
    both = ("test/b/both.jpg", "validation/a/both.jpg")
    assert found == {
        "duplicate": [
            (("train/a/exact1.jpg", "train/a/exact2.jpg"), "2 identical photos of a in train")
        ],
        "near-duplicate": [
            (("train/a/near1.jpg", "train/a/near2.jpg"), "2 copies of one picture of a in train")
        ],
        "leak": [
            (
                ("test/a/leak.jpg", "train/a/leak.jpg"),
                "2 copies of one picture in train and test",
            ),
            (both, "2 identical photos in validation and test"),
        ],
        "conflicting-label": [
            (both, "2 identical photos labelled a and b"),
            (
                ("train/a/conflict.jpg", "train/b/conflict.jpg"),
                "2 identical photos labelled a and b",
            ),
        ],
    }


def test_blank_pictures_are_copies_if_their_colour_is_equal(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, colour in {
        "white": (255, 255, 255),
        "grey": (120, 120, 120),
        "red": (200, 20, 20),
    }.items():
        for side in (100, 140, 180):
            Image.new("RGB", (side, side), colour).save(tmp_path / "a" / f"{name}{side}.png")
    near = kinds(scan(tmp_path))["near-duplicate"]
    assert sorted(finding.paths[0] for finding in near) == [
        "a/grey100.png",
        "a/red100.png",
        "a/white100.png",
    ]
    assert all(len(finding.paths) == 3 for finding in near)


def test_tiny_pictures(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((28, 28), Image.Resampling.BICUBIC).save(
            tmp_path / "a" / f"{number:02}.png"
        )
    for size in ((1, 1), (1, 500), (500, 1)):
        Image.new("RGB", size, (size[0] % 255, 9, size[1] % 255)).save(
            tmp_path / "a" / f"{size}.png"
        )
    shutil.copy(tmp_path / "a" / "00.png", tmp_path / "a" / "again.png")
    Image.open(tmp_path / "a" / "01.png").save(tmp_path / "a" / "webp.webp", quality=90)
    found = kinds(scan(tmp_path))
    assert [finding.paths for finding in found["duplicate"]] == [("a/00.png", "a/again.png")]
    assert [finding.paths for finding in found["near-duplicate"]] == [("a/01.png", "a/webp.webp")]


def test_likeness_reports_the_difference() -> None:
    image = scene(3)
    original = prepare(image)
    same = compare(original, original)
    assert same.same
    assert same.structure > 0.999
    assert same.plain == 0
    moved = compare(prepare(image.crop((12, 0, 400, 300))), original)
    assert moved.same
    assert 0.02 < moved.move < 0.06
    bright = compare(original, prepare(brighter(image, 1.08)))
    assert bright.same
    assert bright.hue[0] < 0.02
    assert not compare(original, prepare(scene(4))).same
    assert original.rgb.shape == (96, 96, 3)
    assert sketches_agree(sketch(image)[None], sketch(brighter(image, 1.1))[None]).tolist() == [
        True
    ]
    assert sketches_agree(sketch(image)[None], sketch(scene(4))[None]).tolist() == [False]
    assert DECODED == 288


def test_perceptual_hash() -> None:
    image = scene(5)
    own = perceptual_hash(sketch(image))
    assert perceptual_hash(np.full((32, 32), 200, np.uint8)) == 0
    assert (own ^ perceptual_hash(sketch(brighter(image, 1.1)))).bit_count() <= 6
    assert (own ^ perceptual_hash(sketch(scene(6)))).bit_count() >= 16


def planted(
    distances: int, each: int, n: int = 20_000
) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], int]:
    """Random hashes, and after them `each` copies at every distance from 1 bit on."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, n, dtype=np.uint64)
    copied = []
    for number in range(distances * each):
        bits = random.choice(64, number // each + 1, replace=False)
        copied.append(hashes[number] ^ np.uint64(sum(1 << int(bit) for bit in bits)))
    return np.concatenate([hashes, np.array(copied, np.uint64)]), n


def test_near_pairs_finds_all_up_to_11_bits_and_most_beyond() -> None:
    hashes, n = planted(14, 100)
    left, right = near_pairs(hashes, 14)
    assert (left < right).all()
    assert (np.bitwise_count(hashes[left] ^ hashes[right]) <= 14).all()
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    assert len(found) == len(left)
    recall = [sum((i, n + i) in found for i in range(100 * d, 100 * d + 100)) for d in range(14)]
    assert recall[:11] == [100] * 11
    assert all(share >= 70 for share in recall[11:])


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_near_pairs_of_few(n: int) -> None:
    left, _ = near_pairs(np.arange(n, dtype=np.uint64), 14)
    assert len(left) == n * (n - 1) // 2


def test_comparisons_of_crowded_hashes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    original = hash_neighbours._compared

    def counted(values: np.ndarray) -> Iterator[Pairs]:
        nonlocal compared
        for left, right in original(values):
            compared += len(left)
            yield left, right

    monkeypatch.setattr(hash_neighbours, "_compared", counted)
    random = np.random.default_rng(1)
    crowd = np.bitwise_or.reduce(
        np.uint64(1) << random.integers(0, 64, (4, 20_000)).astype(np.uint64)
    )
    for hashes in (np.zeros(20_000, np.uint64), crowd):
        compared = 0
        left, right = near_pairs(hashes, 14)
        assert compared <= 2_000 * len(hashes) + 2 * 2_000_000
        assert len(left) <= 5_000_000
        linked = np.unique(np.concatenate([left, right]))
        assert len(linked) > 19_000, "nearly every hash is linked with another"


def test_comparisons_of_almost_blank_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If sketches all agree and files are gone, comparisons fail; their number is bounded."""
    random = np.random.default_rng(2)
    facts = np.zeros(3_000, FACTS)
    facts["sketch"] = 250 + random.integers(0, 2, (3_000, 32, 32))
    facts["phash"] = [perceptual_hash(values) for values in facts["sketch"]]
    samples = [
        Sample(Path("gone.jpg"), "a", None, f"{number:064x}", str(number))
        for number in range(3_000)
    ]
    compared = []

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        compared.append(len(a))
        return sketches_agree(a, b)

    monkeypatch.setattr("tailorbird.dataset.duplicates.groups.sketches_agree", counted)
    groups = duplicate_groups(samples, facts, store=False)
    assert len(set(groups.tolist())) == 3_000
    facts["phash"] = 0
    facts["sketch"] = 250
    assert len(set(duplicate_groups(samples, facts, store=False).tolist())) == 3_000
    assert sum(compared) <= 2 * ORIENTATIONS * 20_300


def test_groups_are_transitive(make_dataset: MakeDataset, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = scene(9)
    for step in range(6):  # each a little more cropped than the one before
        left = 8 * step
        image.crop((left, 0, 400, 300)).save(tmp_path / "a" / f"{step}.png")
    dataset = scan(tmp_path)
    assert len(set(dataset.groups)) == 1
    assert not compare(prepare(image), prepare(image.crop((60, 0, 400, 300)))).same


def test_pictures_of_the_fixture_are_different() -> None:
    assert not compare(prepare(picture("box", 1)), prepare(picture("box", 2))).same


def test_a_second_scan_of_the_same_photos_searches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    original = scene(1)
    (folder / "1.jpg").write_bytes(encoded(original, "JPEG", quality=95))
    (folder / "2.jpg").write_bytes(encoded(brighter(original, 1.1), "JPEG", quality=60))
    (folder / "3.jpg").write_bytes(encoded(scene(2), "JPEG"))
    first = scan(folder.parent)
    assert len(set(first.groups)) == 2
    for file in (tmp_path / "cache").glob("pairs-*/*"):
        file.unlink()

    def searched(*_: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(groups, "near_pairs", searched)
    (folder / "1.jpg").rename(folder / "9.jpg")
    again = scan(folder.parent)
    assert len(set(again.groups)) == 2
    (folder / "4.jpg").write_bytes(encoded(scene(3), "JPEG"))
    with pytest.raises(AssertionError, match="searched again"):
        scan(folder.parent)


def test_blur_is_the_binomial_kernel_with_repeated_edges() -> None:
    greys = np.random.default_rng(0).uniform(0, 255, (3, 7, 11)).astype(np.float32)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    wide = np.pad(greys, ((0, 0), (2, 2), (2, 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), (1, 2))
    assert np.allclose(blur(greys), (windows * kernel).sum((3, 4)), atol=1e-3)
