"""Predictions of an opened model for paths, bytes, images, arrays and streams."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from support.small_models import (
    Write,
)
from tailorbird.errors import (
    ModelFileError,
    SettingsError,
    UnreadableImage,
    UnsupportedImage,
)
from tailorbird.model import Classifier, Failure


def test_predict_takes_paths_bytes_images_and_arrays(write_model: Write, tmp_path: Path) -> None:
    classifier = Classifier(write_model())
    image = picture("disc", 1)
    path = tmp_path / "a photo ü.png"
    image.save(path)
    sources: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        image,
        np.asarray(image),
        image.convert("RGBA"),
    ]
    one_by_one = [classifier.predict(source) for source in sources]
    together = classifier.predict(sources)
    for single, among in zip(one_by_one, together, strict=True):
        assert single.label == one_by_one[0].label
        assert single.probability == pytest.approx(one_by_one[0].probability, abs=1e-6)
        assert among.probability == pytest.approx(single.probability, abs=1e-6)
    assert one_by_one[0].path == str(path) and one_by_one[2].path is None
    assert len(classifier.predict(np.stack([np.asarray(image)] * 3))) == 3
    assert classifier.predict([]) == []


def test_a_pil_image_is_treated_like_its_file(write_model: Write) -> None:
    classifier = Classifier(write_model())
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    turned = picture("cross", 3, (64, 48)).convert("RGBA")
    for data in (
        encoded(Image.fromarray(ramp), "PNG"),
        encoded(turned, "PNG", exif=exif),
        encoded(turned, "WEBP", exif=exif),
    ):
        assert classifier.predict(Image.open(io.BytesIO(data))).top == classifier.predict(data).top
    cut = encoded(picture("box", 1))[:900]
    assert isinstance(next(classifier.stream([Image.open(io.BytesIO(cut))])), Failure)


def test_fields_and_order_of_a_prediction(write_model: Write) -> None:
    classifier = Classifier(write_model(threshold=0.999))
    found = classifier.predict(picture("box", 1), top=9, heatmaps=True)
    assert found.unsure and found.label == found.top[0][0] and len(found.top) == 4
    assert sum(probability for _, probability in found.top) == pytest.approx(1, abs=1e-5)
    assert (
        found.heatmaps is not None
        and found.heatmaps.shape == (3, 4, 4)
        and (found.heatmaps >= 0).all()
    )
    assert set(found.as_dict()) == {
        "path", "label", "probability", "unsure", "unfamiliar", "unfamiliarity", "top",
    }  # fmt: skip
    assert not Classifier(write_model("sure.onnx", threshold=0.0)).predict(picture("box", 1)).unsure
    with pytest.raises(SettingsError, match="top is 0; it must be at least 1"):
        classifier.predict(picture("box", 1), top=0)


def test_a_stream_continues_past_bad_photos_in_order_and_reads_lazily(
    write_model: Write, tmp_path: Path
) -> None:
    classifier = Classifier(write_model())
    good = encoded(picture("disc", 1))
    taken = 0

    def source() -> Any:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield b"broken" if number % 7 == 3 else good

    results = classifier.stream(source(), workers=2)
    first = [next(results) for _ in range(20)]
    assert [isinstance(result, Failure) for result in first] == [
        number % 7 == 3 for number in range(20)
    ]
    assert taken < 60, "memory stays bounded: photos are read as they are needed"
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedImage, match="text is not accepted"):
        classifier.predict([good, b"broken"])
    with pytest.raises(UnreadableImage, match=r"gone\.jpg: no such file"):
        classifier.predict(tmp_path / "gone.jpg")


def test_every_exif_orientation_gives_the_same_prediction(write_model: Write) -> None:
    classifier = Classifier(write_model())
    upright = picture("cross", 3, (64, 48))
    turned: dict[int, Image.Transpose] = {
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
        3: Image.Transpose.ROTATE_180,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
    }
    turned |= {
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        7: Image.Transpose.TRANSVERSE,
    }
    expected = classifier.predict(upright)
    for tag, inverse in turned.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        found = classifier.predict(encoded(upright.transpose(inverse), "PNG", exif=exif))
        assert found.top == expected.top, tag


def test_a_classifier_can_be_pickled(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parent)
    opened = Classifier(trained.name, threads=2)
    stored = pickle.dumps(opened)
    monkeypatch.chdir("/")
    copied = pickle.loads(stored)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    np.testing.assert_allclose(
        copied.probabilities(pixels), opened.probabilities(pixels), atol=1e-6
    )


def _label(classifier: Classifier, path: Path) -> str:
    return classifier.predict(path).label


def test_a_pool_of_processes_can_use_a_classifier(trained: Path, shapes: Path) -> None:
    photos = [shapes / "disc" / "disc-000.jpg", shapes / "box" / "box-000.jpg"]
    classifier = Classifier(trained)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_label, [classifier] * 2, photos))
    assert found == [classifier.predict(photo).label for photo in photos]


def test_file_objects_are_accepted_as_photos(trained: Path, shapes: Path) -> None:
    classifier = Classifier(trained)
    path = shapes / "disc" / "disc-000.jpg"
    expected = classifier.predict(path)
    with path.open("rb") as file:
        found = classifier.predict(file)
    assert (found.path, found.top) == (None, expected.top)
    many = classifier.predict([io.BytesIO(path.read_bytes()), path])
    assert [answer.top for answer in many] == [expected.top] * 2
    with path.open(encoding="latin-1") as text, pytest.raises(UnreadableImage, match="binary mode"):
        classifier.predict(text)
    with pytest.raises(UnreadableImage, match=r"the file object cannot be read: .*closed"):
        classifier.predict(file)


def test_non_finite_probabilities_are_reported_with_the_photo(
    trained: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier(trained)
    honest = classifier._runner.run_batch

    def damaged(images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        return [np.where(np.isfinite(found), np.nan, 0) for found in honest(images, outputs)]

    monkeypatch.setattr(classifier._runner, "run_batch", damaged)
    with pytest.raises(ModelFileError, match=r"probabilities of .*disc-000\.jpg that are NaN"):
        classifier.predict(shapes / "disc" / "disc-000.jpg")


@pytest.mark.parametrize("value", [None, 3, object()])
def test_what_is_no_photo_is_refused_in_words(trained: Path, value: object) -> None:
    classifier = Classifier(trained)
    for photos in (value, [value]):
        with pytest.raises(UnsupportedImage, match=f"{type(value).__name__} is not a photo; give"):
            classifier.predict(photos)  # type: ignore[call-overload]
