from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.errors import SettingsError
from tailorbird.service import storage_for

MODEL = Path("shop.onnx")
URL = "postgresql://user@host/db"


@pytest.mark.parametrize(
    ("corrections", "keep", "photos", "expected"),
    [
        (None, False, None, ("shop.db", None)),
        (None, True, None, ("shop.db", Path("shop.photos"))),
        ("other.db", True, None, ("other.db", Path("other.photos"))),
        ("other.db", True, Path("kept"), ("other.db", Path("kept"))),
        (" OFF ", False, None, (None, None)),
        ("", False, None, (None, None)),
        (URL, True, None, (URL, Path("shop.photos"))),
    ],
)
def test_defaults_of_the_database_and_the_folder(
    corrections: str | None, keep: bool, photos: Path | None, expected: tuple[object, object]
) -> None:
    assert storage_for(MODEL, corrections, keep_photos=keep, photos=photos) == expected


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(SettingsError, match="--photos kept requires --keep-photos"):
        storage_for(MODEL, None, keep_photos=False, photos=Path("kept"))
    with pytest.raises(SettingsError, match="--keep-photos requires a database"):
        storage_for(MODEL, "off", keep_photos=True, photos=None)
