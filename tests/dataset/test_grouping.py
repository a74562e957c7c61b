"""Groups that stay on one side of every split: pictures, fixed scenes, items."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from support.data import encoded
from tailorbird.dataset import Dataset, DataSettings, clean, scan, split, write_manifest
from tailorbird.errors import DatasetError


def background() -> Image.Image:
    random = np.random.default_rng(3)
    small = Image.fromarray(random.integers(40, 200, (9, 12, 3), dtype=np.uint8))
    image = small.resize((320, 240), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, side = (int(random.integers(*span)) for span in ((0, 320), (0, 240), (8, 40)))
        colour = tuple(int(v) for v in random.integers(20, 230, 3))
        draw.rectangle((x, y, x + side, y + side), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(1))


BACKGROUND = background()


def frame(state: str, seed: int) -> bytes:
    """A gate, open or closed, seen by a fixed camera: light, noise and a pixel of shake differ."""
    random = np.random.default_rng((seed, state == "open"))
    image = BACKGROUND.copy()
    draw = ImageDraw.Draw(image)
    draw.rectangle((120, 80, 190, 160), fill=(60, 60, 62))
    for y in range(80, 160, 10) if state == "closed" else ():
        draw.rectangle((120, y, 190, y + 5), fill=(215, 210, 200))
    pixels = np.asarray(image, np.float32) * random.uniform(0.8, 1.2)
    pixels = np.roll(pixels + random.normal(0, 5, pixels.shape), random.integers(-1, 2, 2), (0, 1))
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=88)


def camera(root: Path, names: str, splits: tuple[str, ...] = ("",), count: int = 24) -> Path:
    """Frames of both states; `names` is formatted with the frame's number and a random word."""
    random = np.random.default_rng(0)
    for part, place in enumerate(splits):
        for state in ("open", "closed"):
            folder = root / place / state
            folder.mkdir(parents=True)
            for number in range(count):
                word = "".join(map(chr, random.integers(97, 123, 12)))
                name = names.format(n=number, word=word)
                (folder / name).write_bytes(frame(state, 1000 * part + number))
    return root


def messages(dataset: Dataset, kind: str) -> list[str]:
    return [finding.message for finding in dataset.findings if finding.kind == kind]


@pytest.mark.parametrize("names", ["{n:05}.jpg", "cam 2024-05-01 12-{n:02}-07 UTC.jpg"])
def test_frames_of_a_fixed_camera_are_divided_by_the_sequence_in_their_names(
    tmp_path: Path, names: str
) -> None:
    dataset = scan(camera(tmp_path, names), store=False)
    found = messages(dataset, "one-scene")
    assert len(found) == 2 and "divided into 6 blocks of consecutive names" in found[0]
    assert not messages(dataset, "near-duplicate") and not messages(dataset, "conflicting-label")
    kept, left_out = clean(split(dataset))
    assert not left_out
    for counts in kept.splits.values():
        assert set(counts) == {"open", "closed"}
    for label in ("open", "closed"):
        frames = [s for s in kept.samples if s.label == label]
        changes = sum(a.split != b.split for a, b in itertools.pairwise(frames))
        assert changes <= 4, "blocks of consecutive frames, not single ones"


def test_frames_without_an_order_in_their_names_are_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    root = camera(tmp_path, "{word}.jpg")
    dataset = scan(root, store=False)
    assert dataset.one_scene == ("closed", "open")
    with pytest.raises(DatasetError, match=r"closed, open cannot be divided.*--near-duplicates"):
        split(dataset)
    keep = scan(root, data=DataSettings(near_duplicates="keep"), store=False)
    assert len(set(keep.groups)) == len(keep) == 48
    assert {name: len(keep_split) for name, keep_split in split(keep).splits.items()} == {
        "train": 2, "validation": 2, "test": 2,
    }  # fmt: skip
    drop = scan(root, data=DataSettings(near_duplicates="drop"), store=False)
    assert drop.counts == {"closed": 1, "open": 1}
    assert messages(drop, "near-duplicate")[-1].startswith("46 photos dropped")


def test_the_splits_of_the_user_are_not_overruled(tmp_path: Path) -> None:
    dataset = scan(camera(tmp_path, "{word}.jpg", ("train", "val", "test")), store=False)
    kept, left_out = clean(split(dataset))
    assert not left_out and kept.splits == dataset.splits
    assert len(messages(dataset, "one-scene")) == 6


def test_identical_files_stay_together_in_every_mode(tmp_path: Path) -> None:
    root = camera(tmp_path, "{n:05}.jpg")
    for number in (3, 20):
        (root / "open" / f"copy {number}.jpg").write_bytes(frame("open", number))
    for mode in ("group", "keep"):
        dataset = scan(root, data=DataSettings(near_duplicates=mode), store=False)
        group = dict(zip((s.name for s in dataset.samples), dataset.groups, strict=True))
        for number in (3, 20):
            assert group[f"open/{number:05}.jpg"] == group[f"open/copy {number}.jpg"]


def pictures(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((60, 60), Image.Resampling.NEAREST).save(path)
    return root


NAMES = [f"{label}/patient{n // 4:02}_{n % 4}.png" for label in "ab" for n in range(80)]


def test_photos_of_one_item_stay_together(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos", NAMES)
    data = DataSettings(group_by=r"(patient\d+)_")
    dataset = scan(root, data=data, store=False)
    assert len(set(dataset.groups)) == 20
    divided = split(dataset)
    sides: dict[str, set[str | None]] = {}
    for sample in divided.samples:
        sides.setdefault(sample.group or "", set()).add(sample.split)
    assert all(len(side) == 1 for side in sides.values())
    assert set(divided.splits) == {"train", "validation", "test"}
    write_manifest(dataset, tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text().startswith("path,label,group\n")
    again = scan(tmp_path / "list.csv", store=False)
    assert [s.group for s in again.samples] == [s.group for s in dataset.samples]
    assert [s.split for s in split(again).samples] == [s.split for s in divided.samples]


def test_an_item_on_both_sides_of_the_users_splits_is_left_out_of_train(tmp_path: Path) -> None:
    pictures(tmp_path, ["1.png", "2.png", "3.png", "4.png"])
    table = "path,label,split,group\n1.png,a,train,p1\n2.png,a,train,p2\n3.png,a,test,p1\n"
    (tmp_path / "list.csv").write_text(table + "4.png,b,train,\n")
    kept, left_out = clean(scan(tmp_path / "list.csv", store=False))
    [(sample, reason)] = left_out
    assert sample.name == "1.png"
    assert reason == "in the same group (p1) as 3.png, which is in test"
    assert len(kept) == 3


def test_almost_black_photos_are_a_finding(tmp_path: Path) -> None:
    root = pictures(tmp_path, ["a/1.png", "b/2.png"])
    dark = np.full((40, 40, 3), 6, np.uint8)
    dark[:2] = 11
    Image.fromarray(dark).save(root / "a" / "dark.png")
    for _ in range(2):  # computed, then read from the cache
        [finding] = [f for f in scan(root).findings if f.kind == "almost-black"]
        assert finding.paths == ("a/dark.png",)


COPIES = {
    "a/IMG_7.png": ["a/IMG_7_flip.png", "a/IMG_7-rot90-crop.png", "a/IMG_7 (copy).png"],
    "a/IMG_8.png": ["a/IMG_8.aug_3.png"],
    "b/x_jpg.rf.0f3a5b77aa.png": ["b/x_jpg.rf.9c01d2e4ff.png"],
}
OTHERS = ["a/IMG_70.png", "b/IMG_7_flip.png", "b/crop.png", "b/lane_rot.png", "b/reflip.png"]


def test_photos_named_like_augmented_copies_stay_with_their_original(tmp_path: Path) -> None:
    names = [*COPIES, *(name for copies in COPIES.values() for name in copies), *OTHERS]
    dataset = scan(pictures(tmp_path, names), store=False)
    group = dict(zip((s.name for s in dataset.samples), dataset.groups, strict=True))
    for original, copies in COPIES.items():
        assert {group[name] for name in copies} == {group[original]}
    assert len(set(dataset.groups)) == len(COPIES) + len(OTHERS)
    [finding] = [f for f in dataset.findings if f.kind == "augmented-copy"]
    assert len(finding.paths) == 5 and finding.message.startswith("5 photos are named like")


def test_an_augmented_copy_of_a_test_photo_is_left_out_of_train(tmp_path: Path) -> None:
    names = ["train/a/1.png", "train/a/2_rot.png", "train/b/3.png", "test/a/2.png", "test/b/4.png"]
    _, left_out = clean(scan(pictures(tmp_path, names), store=False))
    [(sample, reason)] = left_out
    assert sample.name == "train/a/2_rot.png"
    assert reason == "in a group of copies with test/a/2.png, which is in test"
