"""A labelling from nothing: screens, blind questions, the manifest, windows, restarts."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from support.labelling import (  # noqa: F401  (fixtures)
    SHAPES,
    draw_roll,
    drawn_cache,
    label_until,
    labelling,
    next_of,
    roll,
    true,
    truth,
)
from tailorbird import TrainSettings, scan, train, use_device
from tailorbird.errors import DatasetError, SettingsError, StorageError, StorageFull
from tailorbird.labelling import (
    Answer,
    AnsweredMeanwhile,
    Given,
    Labelling,
    LabelSettings,
    default_manifest,
    open_labelling,
    trainer,
)
from tailorbird.labelling.screens import Labels
from tailorbird.labelling.session import default_model
from tailorbird.labelling.trainer import Trainer


def rows(path: Path) -> dict[str, tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["path"]: (row["label"], row["split"]) for row in csv.DictReader(file)}


def test_from_nothing_to_a_model(roll: Path) -> None:
    """The first photos are asked about singly, then come sheets, and blind questions between."""
    with labelling(roll) as opened:
        kinds: list[str] = []
        blind_names: set[str] = set()
        proposed_names: set[str] = set()
        while (screen := next_of(opened)).kind != "done":
            kinds.append(screen.kind + "-blind" * screen.blind)
            names = {opened.gallery.names[asked.photo] for asked in screen.photos}
            (blind_names if screen.blind else proposed_names).update(names)
            assert all(bool(asked.proposal) == (screen.kind == "sheet") for asked in screen.photos)
            opened.answer(truth(opened, screen))
        assert kinds[0] == "ask" and "sheet" in kinds and "ask-blind" in kinds
        assert not blind_names & proposed_names, "a blind photo is never shown with a proposal"
        outlook = opened.look()
        assert outlook.blind == len(blind_names) and outlook.accuracy is not None
        low, high = outlook.interval
        assert low <= outlook.accuracy <= high + 1e-9
        training = Trainer(opened)
        training.start()
        state = training.wait(600)
        assert state.state == "done", state
        assert training.report is not None and training.report.is_file()
    manifest = default_manifest(roll)
    table = rows(manifest)
    assert len(table) == 90 and all(label == true(path) for path, (label, _) in table.items())
    held = {path for path, (_, split) in table.items() if split in ("validation", "test", "")}
    assert held <= {f"roll/{name}" for name in blind_names} or not any(s for _, s in table.values())
    assert set(scan(manifest).classes) == set(SHAPES)
    assert (
        default_model(manifest) == roll.parent / "roll.onnx"
        and (roll.parent / "roll.onnx").exists()
    )


def test_enough_blind_answers_become_validation_and_test(tmp_path: Path) -> None:
    roll = draw_roll(tmp_path / "roll", 70)
    with labelling(roll) as opened:
        label_until(opened, 210)
        blind = {f"roll/{name}" for name, a in opened.history.answers.by_name.items() if a.blind}
    table = rows(default_manifest(roll))
    splits = Counter(split for _, split in table.values())
    assert {path for path, (_, split) in table.items() if split != "train"} == blind
    assert splits["validation"] >= 10 and splits["test"] >= 10
    result = train(default_manifest(roll), tmp_path / "m.onnx", backbone="pocket", report=False)
    assert result.test.n == splits["test"]


def test_copies_take_one_label_and_are_asked_about_once(roll: Path) -> None:
    for number in range(12):
        shutil.copy(roll / "disc-000.jpg", roll / f"disc-0{number:02}-copy.jpg")
    with labelling(roll) as opened:
        asked: Counter[str] = Counter()
        while (screen := next_of(opened)).kind != "done":
            asked.update(opened.gallery.names[one.photo] for one in screen.photos)
            opened.answer(truth(opened, screen))
    same = [name for name in asked if name == "disc-000.jpg" or "copy" in name]
    assert sum(asked[name] for name in same) == 1
    table = rows(default_manifest(roll))
    assert len(table) == 102, "copies are in the manifest, with the same label"
    assert len({table[f"roll/{name}"] for name in ("disc-000.jpg", "disc-003-copy.jpg")}) == 1


def test_special_answers(roll: Path) -> None:
    """None of these and unusable photos are not asked about again; skipped ones come at the end."""
    with labelling(roll) as opened:
        said: dict[str, str] = {}
        screen = next_of(opened)
        kinds = ["none", "unusable", "skip"]
        for asked, kind in zip(screen.photos, kinds, strict=False):
            said[opened.gallery.names[asked.photo]] = kind
            opened.answer([Given(asked.photo, Answer(kind))])  # type: ignore[arg-type]
        again = []
        while (screen := next_of(opened)).kind != "done":
            again += [opened.gallery.names[asked.photo] for asked in screen.photos]
            opened.answer(truth(opened, screen))
    assert [name for name in again if name in said] == [n for n, k in said.items() if k == "skip"]
    table = rows(default_manifest(roll))
    expected = {"none": "none of these", "unusable": None}
    for name, kind in said.items():
        label = table.get(f"roll/{name}", (None, ""))[0]
        assert label == expected.get(kind, true(name)), kind


def test_a_restart_goes_on_and_undoes(roll: Path) -> None:
    with labelling(roll) as opened:
        label_until(opened, 20)
        before = dict(opened.history.answers.by_name)
        last = opened.history.answers.last
        assert last is not None
    with labelling(roll) as opened:
        assert opened.history.answers.by_name == before
        assert "continues with" in opened.notes[0]
        undone = opened.undo(last.number)
        assert set(undone.answers) == set(last.answers)
        assert not set(undone.answers) & set(opened.history.answers.by_name)
    table = rows(default_manifest(roll))
    assert not {f"roll/{name}" for name in last.answers} & set(table), "the manifest follows"


def test_two_windows_show_different_photos_and_never_overwrite_each_other(roll: Path) -> None:
    with labelling(roll) as opened:
        one, two = next_of(opened, "one"), next_of(opened, "two")
        assert not {a.photo for a in one.photos} & {a.photo for a in two.photos}
        opened.answer([Given(one.photos[0].photo, Answer("label", "disc"))])
        number = opened.history.answers.number
        with pytest.raises(AnsweredMeanwhile, match="answered in another window meanwhile"):
            opened.answer(
                [
                    Given(one.photos[1].photo, Answer("label", "box")),
                    Given(one.photos[0].photo, Answer("label", "box")),
                ]
            )
        assert opened.history.answers.number == number, "nothing of that screen was saved"
        opened.answer([Given(two.photos[0].photo, Answer("label", "box"))])
        with pytest.raises(AnsweredMeanwhile, match="another window has answered since"):
            opened.undo(number)
        opened.undo(opened.history.answers.number)


def test_one_process_at_a_time(roll: Path) -> None:
    match = "is being labelled by another process"
    with labelling(roll), pytest.raises(StorageError, match=match):
        open_labelling(roll, settings=LabelSettings(backbone="pocket"))
    with labelling(roll) as opened:
        assert opened.reading.finished


def test_classes_are_added_renamed_and_merged(roll: Path) -> None:
    with labelling(roll, classes=()) as opened:
        assert opened.add_class(" disc ") == "disc" and opened.add_class("Disc") == "disc"
        screen = next_of(opened)
        opened.answer([Given(screen.photos[0].photo, Answer("label", "disc"))])
        assert opened.rename_class("disc", "Scheibe") == "Scheibe"
        assert opened.history.answers.counts() == {"Scheibe": 1}
        opened.add_class("disc")
        opened.answer([Given(screen.photos[1].photo, Answer("label", "disc"))])
        assert opened.rename_class("Scheibe", "disc") == "disc", "merged"
        assert opened.history.answers.counts() == {"disc": 2}
        last = opened.history.answers.last
        assert last is not None
        opened.undo(last.number)
        assert opened.history.answers.counts() == {"Scheibe": 1, "disc": 1}
        for text in ("", "x" * 200, "a/", "\u200b", "None of these"):
            with pytest.raises(SettingsError):
                opened.add_class(text)
        with pytest.raises(SettingsError, match="there is no class 'hat'"):
            opened.answer([Given(screen.photos[2].photo, Answer("label", "hat"))])
        with pytest.raises(SettingsError, match="there is no class"):
            opened.rename_class("hat", "cap")


def test_class_folders_of_the_classes_are_labels(tmp_path: Path) -> None:
    roll = draw_roll(tmp_path / "roll", 6)
    for number in range(3):
        (roll / "done" / "disc").mkdir(parents=True, exist_ok=True)
        shutil.move(roll / f"disc-00{number}.jpg", roll / "done" / "disc")
    with labelling(roll, classes=("disc", "box")) as opened:
        assert opened.history.answers.counts() == {"disc": 3, "box": 0}
        assert not any(
            "done/disc" in opened.gallery.names[asked.photo] for asked in next_of(opened).photos
        )
    with labelling(roll, classes=()) as opened:
        assert opened.history.answers.counts() == {"disc": 3, "box": 0}, "kept without --classes"


def test_labels_that_exist_are_taken_and_other_rows_kept(roll: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    manifest.write_text(
        "path,label,split\nroll/disc-000.jpg,disc,\nroll/box-000.jpg,box,test\nother/a.jpg,hat,\n"
    )
    with labelling(roll, manifest, classes=()) as opened:
        answers = opened.history.answers
        assert answers.by_name["disc-000.jpg"] == Answer("label", "disc")
        assert answers.by_name["box-000.jpg"] == Answer("label", "box", blind=True)
    assert rows(manifest)["other/a.jpg"][0] == "hat"
    # Edited by hand between two runs: the edit is taken as a step.
    manifest.write_text(manifest.read_text().replace("disc-000.jpg,disc", "disc-000.jpg,cross"))
    with labelling(roll, manifest, classes=()) as opened:
        assert opened.history.answers.by_name["disc-000.jpg"].label == "cross"
        last = opened.history.answers.last
        assert last is not None
        opened.undo(last.number)
        assert opened.history.answers.by_name["disc-000.jpg"].label == "disc"


@pytest.mark.parametrize(
    "content", ["path,label,split,decision,was\na.jpg,hat,,keep,\n", "name,size\na,1\n", "hello\n"]
)
def test_another_file_is_not_overwritten(roll: Path, tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "labels.csv"
    manifest.write_text(content)
    with pytest.raises(DatasetError, match="give another name with -o"):
        open_labelling(roll, manifest, LabelSettings(backbone="pocket"))
    assert manifest.read_text() == content


def test_bad_names_are_refused(roll: Path, tmp_path: Path) -> None:
    settings = LabelSettings(backbone="pocket")
    with pytest.raises(SettingsError, match=r"give the name of a \.csv file"):
        open_labelling(roll, tmp_path / "labels.txt", settings)
    with pytest.raises(DatasetError, match="is not a folder"):
        open_labelling(roll / "disc-000.jpg", None, settings)
    with pytest.raises(SettingsError, match="seed"):
        LabelSettings(classes=("a", "x" * 200), seed=-1)


def test_a_full_disk_loses_nothing(roll: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with labelling(roll) as opened:
        screen = next_of(opened)
        given = truth(opened, screen)
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", _full)
            with pytest.raises(StorageFull):
                opened.answer(given)
        assert not opened.history.answers.by_name
        opened.answer(given)
        assert len(opened.history.answers.by_name) == len(given)


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_single_class_and_too_few_labels(roll: Path) -> None:
    with labelling(roll, classes=("photo",)) as opened:
        for _ in range(3):
            screen = next_of(opened)
            assert screen.kind == "ask", "with one class there is nothing to propose"
            opened.answer([Given(a.photo, Answer("label", "photo")) for a in screen.photos])
        assert not opened.can_train
        with pytest.raises(SettingsError, match="too few labels"):
            Trainer(opened).start()


def test_a_training_runs_on_the_device_of_the_page(
    roll: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a thread of its own, which does not see the device of the one that opened the page."""
    asked: list[TrainSettings] = []

    def stop(manifest: Path, model: Path, settings: TrainSettings, **_: object) -> None:
        asked.append(settings)
        raise SettingsError("enough")

    monkeypatch.setattr(trainer, "train", stop)
    with use_device("cpu"), labelling(roll) as opened:
        monkeypatch.setattr(Labelling, "can_train", True)
        training = Trainer(opened)
        training.start()
        assert training.wait(60).message == "enough"
    assert [settings.device for settings in asked] == ["cpu"]


def test_a_screen_of_one_class(roll: Path) -> None:
    with labelling(roll) as opened:
        label_until(opened, 28)
        screen = next_of(opened, only="disc")
        assert {asked.proposal for asked in screen.photos} == {"disc"}
        right = [true(opened.gallery.names[asked.photo]) == "disc" for asked in screen.photos]
        assert sum(right) > len(right) / 2


def test_the_same_answers_give_the_same_screens(roll: Path, tmp_path: Path) -> None:
    def names(manifest: str) -> list[list[str]]:
        shown = []
        with labelling(roll, tmp_path / manifest) as opened:
            _settle(opened)
            for _ in range(4):
                screen = next_of(opened)
                shown.append([opened.gallery.names[asked.photo] for asked in screen.photos])
                opened.answer(truth(opened, screen))
        return shown

    assert names("a.csv") == names("b.csv")


def _settle(opened: Labelling) -> None:
    """Survey all photos now."""
    opened._chooser.survey(opened.history.answers)
    assert Labels.of(opened.history.answers, opened.gallery).classes == ()
