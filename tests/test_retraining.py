"""Retraining: when a model is replaced, what is kept, what survives, and the running service."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tailorbird
from support.cli import lines, run
from support.data import draw_dataset, encoded, picture
from support.progress import RecordedProgress
from support.serving import serving
from tailorbird import retraining
from tailorbird.comparison import Comparison, compare
from tailorbird.corrections import NONE_OF_THESE, open_store
from tailorbird.errors import ModelFileError, RunError, SettingsError, StorageError
from tailorbird.files import exclusive, sha256_file
from tailorbird.model import Classifier
from tailorbird.retraining import history_folder, judge, keep_copy, kept_models, retrain
from tailorbird.service.probe import reload_model
from tailorbird.training import TrainSettings, train

TOKEN = "secret-token-of-16"
QUICK = TrainSettings(fixed={"inner": (), "epochs": 15}, report=False)
BAD = TrainSettings(fixed={"inner": (1,), "epochs": 3, "l2": 1000.0}, report=False)
"""Trains a head that is too strongly regularised to tell the classes apart."""


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the model trained on `shapes`, to be replaced."""
    return Path(shutil.copy(trained, tmp_path / "shop.onnx"))


def correct(folder: Path, count: int) -> None:
    """Store corrections with their photos in shop.db: drawn discs that were taken for boxes."""
    with open_store(str(folder / "shop.db"), photos=folder / "shop.photos") as store:
        for number in range(count):
            data = encoded(picture("disc", 900 + number), "PNG")
            store.add(
                sha256=hashlib.sha256(data).hexdigest(),
                predicted="box",
                probability=0.6,
                top=[("box", 0.6)],
                answer="disc",
                model="shop",
                model_sha256="0" * 64,
                receipt=f"r{number}",
                photo=data,
            )


def patchwork(count: int, seed: int) -> list[bytes]:
    """Draw pictures of coloured squares, which show none of the shapes."""
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        drawn.append(encoded(small.resize((96, 80), Image.Resampling.NEAREST), "PNG"))
    return drawn


def answer_none(folder: Path, photos: list[bytes]) -> None:
    """Store answers that photos show none of the classes, with the photos, in shop.db."""
    with open_store(str(folder / "shop.db"), photos=folder / "shop.photos") as store:
        for number, data in enumerate(photos):
            store.add(
                sha256=hashlib.sha256(data).hexdigest(),
                predicted="box",
                probability=0.6,
                top=[("box", 0.6)],
                answer=NONE_OF_THESE,
                model="shop",
                model_sha256="0" * 64,
                receipt=f"n{number}",
                photo=data,
            )


# --- what is decided ------------------------------------------------------------------------------


def test_a_model_that_is_not_worse_is_replaced_and_kept(
    model: Path, shapes: Path, tmp_path: Path
) -> None:
    correct(tmp_path, 5)
    before = sha256_file(model)
    result = retrain(model, shapes)
    assert result.decision == "replaced", result.reason
    assert result.trained.corrections is not None and result.trained.corrections.used == 5
    assert sha256_file(model) != before
    (kept,) = result.kept
    assert sha256_file(kept) == before and kept.parent == history_folder(model)
    assert result.comparison is not None and result.comparison.tally.n >= 9
    assert result.comparison.split == "test" and result.comparison.trained_on == (0, 0)
    assert "neither has seen" in result.reason and "it is not worse" in result.reason
    assert (tmp_path / "shop.report.html").is_file()
    left = {path.name for path in history_folder(model).iterdir()}
    assert left == {kept.name, "lock"}, "no candidate stays"
    # The same again: nothing is new, so no history is spent on copies.
    again = retrain(model, shapes)
    assert again.decision == "unchanged" and again.kept == (kept,)
    assert {path.name for path in history_folder(model).iterdir()} == left


def test_answers_of_none_of_these_alone_are_something_new_and_are_refused_afterwards(
    model: Path, shapes: Path, tmp_path: Path
) -> None:
    answer_none(tmp_path, patchwork(20, seed=1))
    result = retrain(model, shapes)
    assert result.decision == "replaced", result.reason
    assert result.as_dict()["corrections"]["none_of_these"] == 20
    taught = Classifier(model)
    assert taught.info.unfamiliarity["none_of_these"] == 20
    refused = [prediction.unfamiliar for prediction in taught.predict(patchwork(20, 2))]
    assert sum(refused) >= 18
    assert retrain(model, shapes).decision == "unchanged"


def test_what_taught_the_model_to_refuse_is_missed_and_can_be_given(
    model: Path, shapes: Path, tmp_path: Path
) -> None:
    other = tmp_path / "none"
    other.mkdir()
    for number, data in enumerate(patchwork(16, seed=3)):
        (other / f"{number}.png").write_bytes(data)
    assert retrain(model, shapes, none=other).decision == "replaced"
    assert Classifier(model).info.unfamiliarity["none_of_these"] >= 8
    notes = RecordedProgress()
    retrain(model, shapes, replace=False, progress=notes)
    assert "there are none now; name their folder: --none FOLDER" in " ".join(notes.notes)


def test_a_worse_model_replaces_nothing_and_stays_as_candidate(model: Path, shapes: Path) -> None:
    before = sha256_file(model)
    result = retrain(model, shapes, training=BAD)
    assert result.decision == "worse" and "significantly worse" in result.reason
    assert sha256_file(model) == before and not result.kept
    assert result.candidate is not None
    assert Classifier(result.candidate).classes == Classifier(model).classes


def test_without_replacing_the_new_model_is_a_candidate(model: Path, shapes: Path) -> None:
    before = sha256_file(model)
    result = retrain(model, shapes, training=QUICK, replace=False)
    assert result.decision == "kept-candidate" and sha256_file(model) == before
    assert result.candidate == history_folder(model) / "candidate.onnx"
    assert result.candidate.is_file()


@pytest.fixture(scope="module")
def compared(trained: Path, shapes: Path) -> Comparison:
    return compare(trained, trained, shapes, include_seen=True)


@pytest.mark.parametrize(
    ("only_a", "only_b", "tolerance", "worse", "said"),
    [
        (0, 0, 0.0, False, "not worse"),
        (1, 0, 0.0, True, "loses 1.0 points, 0 may be lost"),
        (1, 0, 0.01, False, "not worse"),
        (4, 2, 0.01, True, "loses 2.0 points, 1 may be lost"),
        (9, 1, 1.0, True, "significantly worse"),
        (1, 9, 0.0, False, "significantly better"),
    ],
)
def test_the_decision_follows_the_paired_test_and_the_tolerance(
    compared: Comparison, only_a: int, only_b: int, tolerance: float, worse: bool, said: str
) -> None:
    from tailorbird.metrics.paired import mcnemar

    tally = replace(
        compared.tally, both=100 - only_a - only_b, only_a=only_a, only_b=only_b, neither=0
    )
    found = replace(compared, tally=tally, p_value=mcnemar(only_a, only_b))
    verdict, reason = judge(found, tolerance)
    assert verdict == worse and said in reason, reason
    assert f"p = {mcnemar(only_a, only_b):.2g}" in reason


def test_a_new_model_that_lacks_a_class_is_worse(compared: Comparison) -> None:
    worse, reason = judge(replace(compared, only_classes=(("hat",), ())), 1.0)
    assert worse and "lacks 1 class of the model in place (hat)" in reason


def test_too_few_photos_are_said(compared: Comparison) -> None:
    few = replace(compared, b=replace(compared.b, interval=(0.5, 1.0)))
    assert "as far as so few photos can tell" in judge(few, 0.01)[1]


def test_settings_come_from_the_model(trained: Path) -> None:
    info = Classifier(trained).info
    found = retraining._settings_of(info, trained, None)
    assert (found.backbone, found.seed, found.views, found.mirror) == ("pocket", 0, 1, False)
    assert retraining._settings_of(info, trained, "lite").backbone == "lite"
    joined = {"name": "joined", "parts": [{"name": "lite"}, {"name": "pocket"}]}
    assert retraining._backbone_of(joined) == "lite,pocket"
    assert retraining._backbone_of({"name": "pocket + mirror"}) == "pocket"
    tuned = replace(info, settings={**info.settings, "finetune": {}})
    with pytest.raises(SettingsError, match=r"was fine-tuned.*--backbone"):
        retraining._settings_of(tuned, trained, None)
    with pytest.raises(SettingsError, match="not made by `tailorbird train`"):
        retraining._settings_of(replace(info, settings={}), trained, None)


def test_another_seed_is_refused_since_it_makes_other_splits(model: Path, shapes: Path) -> None:
    with pytest.raises(SettingsError, match=r"seed is 1, but .* was trained with the seed 0"):
        retrain(model, shapes, training=replace(QUICK, seed=1))


@pytest.mark.parametrize("bad", [{"tolerance": -0.1}, {"tolerance": 2}, {"keep": 0}, {"kep": 3}])
def test_invalid_settings_are_refused(model: Path, shapes: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        retrain(model, shapes, **bad)


def test_a_model_among_its_photos_is_refused(trained: Path, tmp_path: Path) -> None:
    photos = draw_dataset(tmp_path / "photos", count=3)
    inside = Path(shutil.copy(trained, photos / "box" / "shop.onnx"))
    with pytest.raises(SettingsError, match="lies in the folder of photos"):
        retrain(inside, photos)


# --- what is kept ---------------------------------------------------------------------------------


def test_the_last_models_are_kept_and_nothing_else_is_deleted(model: Path) -> None:
    folder = history_folder(model)
    folder.mkdir()
    (folder / "my own.onnx").write_bytes(b"mine")
    for number in range(5):
        (folder / f"2026010{number}T000000Z-{number:012x}.onnx").write_bytes(b"old")
    copy = keep_copy(model, sha256_file(model), 3)
    assert [path.name[:8] for path in kept_models(folder)[1:]] == ["20260104", "20260103"]
    assert kept_models(folder)[0] == copy and copy.read_bytes() == model.read_bytes()
    assert (folder / "my own.onnx").read_bytes() == b"mine"
    assert keep_copy(model, sha256_file(model), 3) == copy, "after a kill, the copy is used again"


def test_the_permissions_of_the_model_stay(model: Path, trained: Path) -> None:
    model.chmod(0o640)
    retraining.put(trained, model)
    assert model.stat().st_mode & 0o777 == 0o640


def test_two_retrainings_at_once_are_refused(model: Path, shapes: Path) -> None:
    with (
        exclusive(history_folder(model) / "lock", "busy"),
        pytest.raises(StorageError, match=r"another retraining of .* is running"),
    ):
        retrain(model, shapes)


def test_a_model_that_was_replaced_meanwhile_is_left_alone(
    model: Path, shapes: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_and_replace(*arguments: object, **options: object) -> object:
        result = train(*arguments, **options)  # type: ignore[arg-type]
        model.write_bytes(trained.read_bytes() + b"\0")
        return result

    monkeypatch.setattr(retraining, "train", train_and_replace)
    with pytest.raises(StorageError, match="replaced by another program"):
        retrain(model, shapes, training=QUICK)
    assert model.read_bytes() == trained.read_bytes() + b"\0"


KILLED = """
import os, signal, sys
from pathlib import Path
from tailorbird import retraining
from tailorbird.training import TrainSettings

def kill(*arguments):
    if moment == "after":
        put(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

moment, model, photos = sys.argv[1:]
put, retraining.put = retraining.put, kill
settings = TrainSettings(fixed={"inner": (), "epochs": 15}, report=False)
retraining.retrain(model, photos, training=settings)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_9_leaves_a_whole_model_and_the_next_run_completes(
    moment: str, model: Path, shapes: Path
) -> None:
    before = sha256_file(model)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(model), str(shapes)], timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert Classifier(model).classes == ("box", "cross", "disc")
    assert (sha256_file(model) == before) == (moment == "before")
    (copy,) = kept_models(history_folder(model))
    assert sha256_file(copy) == before
    said: list[str] = []
    result = retrain(model, shapes, training=QUICK, reload=said.append)
    assert result.decision == ("replaced" if moment == "before" else "unchanged")
    assert result.kept == (copy,)
    assert said == [sha256_file(model)], "the service is reloaded even if nothing is new"
    assert {path.name for path in history_folder(model).iterdir()} == {copy.name, "lock"}


# --- the service ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "stays"), [(ModelFileError("refused"), False), (RunError("no answer"), True)]
)
def test_a_service_that_refuses_the_model_gets_the_former_one_back(
    error: Exception, stays: bool, model: Path, shapes: Path
) -> None:
    before = sha256_file(model)

    def reload(_: str) -> None:
        raise error

    with pytest.raises(RunError, match=r"refused; the former.*back in place|no answer"):
        retrain(model, shapes, training=QUICK, reload=reload)
    assert (sha256_file(model) != before) == stays
    assert sha256_file(kept_models(history_folder(model))[0]) == before


def test_the_command_replaces_the_model_of_a_running_service(
    model: Path, shapes: Path, tmp_path: Path
) -> None:
    with serving(model, tmp_path, token=TOKEN) as server:
        correct(tmp_path, 3)
        before = server.get("/v1/model")["sha256"]
        options = ("--reload", server.address)
        (said,) = lines(run("retrain", model, shapes, *options, "--json", TAILORBIRD_TOKEN=TOKEN))
        assert said["decision"] == "replaced" and said["reloaded"], said["reason"]
        assert said["corrections"]["used"] == 3
        assert server.get("/v1/model")["sha256"] == sha256_file(model) != before
        with pytest.raises(RunError, match="401"):
            reload_model(server.address, "wrong", before)
        with pytest.raises(RunError, match="is it started with the same file"):
            reload_model(server.address, TOKEN, before)
        model.write_bytes(b"no model")
        with pytest.raises(ModelFileError, match="refused the new model"):
            reload_model(server.address, TOKEN, before)
    with pytest.raises(RunError, match="did not reload its model: Connection refused"):
        reload_model(server.address, TOKEN, before)


def test_the_command_exits_3_for_a_worse_model(shapes: Path, tmp_path: Path, trained: Path) -> None:
    """Corrections with wrong labels for many photos make a worse model."""
    model = Path(shutil.copy(trained, tmp_path / "shop.onnx"))
    wrong: Callable[[str], str] = {"disc": "box", "box": "cross", "cross": "disc"}.__getitem__
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        for label in ("disc", "box", "cross"):
            for number in range(60):
                data = encoded(picture(label, 500 + number))
                store.add(
                    sha256=hashlib.sha256(data).hexdigest(),
                    predicted=label,
                    probability=0.6,
                    top=[(label, 0.6)],
                    answer=wrong(label),
                    model="shop",
                    model_sha256="0" * 64,
                    receipt=f"{label}{number}",
                    photo=data,
                )
    done = run("retrain", model, shapes, code=3)
    assert done.stdout.startswith("Corrections: 180 photos added")
    assert re.search("Not replaced: on .*(significantly worse|points, 1 may be lost)", done.stdout)
    assert "Candidate: " in done.stdout
    assert model.read_bytes() == trained.read_bytes()
    assert json.loads(run("retrain", model, shapes, "--corrections", "off", "--json").stdout)[
        "decision"
    ] in ("unchanged", "replaced")


def test_the_public_names(model: Path) -> None:
    assert tailorbird.retrain is retrain
    with pytest.raises(SettingsError, match="address of a service"):
        reload_model("shop.example", None, "")
    assert "127.0.0.1:1" in run("retrain", model, model, "--reload", "127.0.0.1:1", code=2).stderr
