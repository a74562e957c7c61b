"""What the tests share: pictures they draw themselves, a cache of their own, and the data beside the checkout where it is."""

from __future__ import annotations

import io
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from postgres_server import PostgresServer

# Started in the background of a script, a process ignores Ctrl-C, and so do those it starts; the tests that send one need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"
MOBILENET = SHARED / "weights" / "mobilenetv2_imagenet.backbone.onnx"
CLOTHING = SHARED / "data" / "clothing-dataset-small"

needs_shared = pytest.mark.skipif(not CLOTHING.is_dir(), reason="needs the photos of shared/data beside the checkout")


LONGEST = ("test_docs.py", "test_zoomcamp.py", "test_cli.py", "test_keras_pull.py", "test_finetune_training.py")
"""Files that take a minute or more on one core, the longest first. They begin first, so that no core waits for the last of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first, the others as they are."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TAILORBIRD_CACHE", str(folder))
    return folder


def picture(label: str, seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A drawn picture: its shape is the label (disc, box, cross), all else is chance."""
    random = np.random.default_rng([seed, *label.encode()])
    width, height = size
    image = Image.new("RGB", size, tuple(int(v) for v in random.integers(150, 250, 3)))
    draw = ImageDraw.Draw(image)
    colour = tuple(int(v) for v in random.integers(0, 120, 3))
    side = min(size) * random.uniform(0.35, 0.6)
    left, top = random.uniform(0, width - side), random.uniform(0, height - side)
    frame = (left, top, left + side, top + side)
    if label.endswith("disc"):
        draw.ellipse(frame, fill=colour)
    elif label.endswith("box"):
        draw.rectangle(frame, fill=colour)
    else:
        draw.line(frame, fill=colour, width=8)
        draw.line((left, top + side, left + side, top), fill=colour, width=8)
    noise = random.integers(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def draw_dataset(
    folder: Path, labels: tuple[str, ...] = ("disc", "box", "cross"), count: int = 24, seed: int = 0
) -> Path:
    """Class folders of `count` drawn JPEG files each."""
    for label in labels:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(label, seed * 10_000 + number).save(
                folder / label / f"{label.rpartition('/')[2]}-{number:03}.jpg", quality=92
            )
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 24 drawn pictures; tests must not change it."""
    return draw_dataset(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Iterator[Path]:
    """A model trained on `shapes` with the shipped backbone; tests must not change it."""
    from tailorbird.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("model") / "shapes.onnx"
        train(shapes, output)
        yield output


MakeDataset = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Draws a dataset of the test's own."""

    def make(name: str = "photos", **options: object) -> Path:
        return draw_dataset(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; tests must not stop it."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of its database `postgres`, with a password full of characters that URLs must escape."""
    return postgres.url()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> str:
    """The URL of a new and empty database."""
    name = f"test_{secrets.token_hex(4)}"
    postgres.execute(f"CREATE DATABASE {name}")
    return postgres.url(name)
