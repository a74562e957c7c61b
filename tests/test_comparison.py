"""Comparison of models: statistics against published numbers, the library, the command."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from support.cli import lines, run
from support.data import draw_dataset, encoded, picture
from tailorbird.comparison import Comparison, compare, tiles
from tailorbird.errors import DatasetError, ModelFileError, SettingsError
from tailorbird.evaluation import evaluate, seen_by
from tailorbird.metrics.paired import mcnemar, mean_interval, paired_interval
from tailorbird.model import Classifier
from tailorbird.training import train

# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Altman, Machin, Bryant and Gardner, Statistics with Confidence (2000), table 6.2.
        ((14, 0, 5, 22), (0.011, 0.226)),
        # Bentur et al. 2009, as computed in Fagerland, Lydersen and Laake, Statistical Analysis of
        # Contingency Tables (2017).
        ((1, 1, 7, 12), (0.026, 0.507)),
    ],
)
def test_paired_interval_gives_the_published_numbers(
    table: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    both, only_a, only_b, neither = table
    assert paired_interval(*table) == pytest.approx(expected, abs=5e-4)
    low, high = paired_interval(both, only_b, only_a, neither)
    assert (-high, -low) == pytest.approx(expected, abs=5e-4), "swapping A and B mirrors it"


@pytest.mark.parametrize(
    "table", [(5, 0, 0, 0), (0, 0, 0, 5), (0, 5, 0, 0), (0, 3, 2, 0), (1, 0, 0, 0), (900, 1, 0, 99)]
)
def test_paired_interval_holds_the_difference_in_every_corner(
    table: tuple[int, int, int, int],
) -> None:
    _, only_a, only_b, _ = table
    low, high = paired_interval(*table)
    assert -1 <= low <= (only_b - only_a) / sum(table) <= high <= 1 and low < high
    assert paired_interval(0, 0, 0, 0) == (-1, 1)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5) and mcnemar(1, 7) == pytest.approx(18 / 2**8)
    assert mcnemar(0, 0) == 1 and mcnemar(4, 4) == 1 and mcnemar(12, 31) == mcnemar(31, 12)
    for a, b in ((12, 31), (3, 9), (200, 260), (5000, 5100), (0, 1)):
        assert mcnemar(a, b) == pytest.approx(binomtest(a, a + b).pvalue, rel=1e-9)
    assert 0 <= mcnemar(0, 5000) < 1e-300


def test_mean_interval() -> None:
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0, 0)
    assert (low, high) == pytest.approx((2 - 1.959964 / 3**0.5, 2 + 1.959964 / 3**0.5))
    assert mean_interval([1.0]) is None


# --- the library ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A model that hardly learned: few steps of a tiny head, on the same photos as `trained`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("weak") / "weak.onnx"
        train(
            shapes,
            output,
            fixed={"inner": (1,), "epochs": 3, "learning_rate": 1e-3},
            seed=1,
            backbone="pocket",
        )
        return output


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return photos new to both models; some are large, and two cannot be used."""
    folder = draw_dataset(tmp_path_factory.mktemp("fresh") / "new ü", count=12, seed=7)
    picture("disc", 1, (900, 700)).save(folder / "disc" / "large.jpg")
    picture("box", 2, (1500, 300)).save(folder / "box" / "wide.png")
    (folder / "box" / "cut.jpg").write_bytes(encoded(picture("box", 3))[:500])
    (folder / "cross" / "text.jpg").write_bytes(b"hello")
    return folder


@pytest.fixture(scope="module")
def result(trained: Path, weak: Path, fresh: Path) -> Comparison:
    return compare(weak, trained, fresh)


def test_compare_agrees_with_evaluate(
    result: Comparison, trained: Path, weak: Path, fresh: Path
) -> None:
    for mine, path in ((result.a, weak), (result.b, trained)):
        alone = evaluate(path, fresh).scores
        assert mine.confusion == alone.confusion and mine.n == alone.n == 38
        assert mine.log_loss == pytest.approx(
            alone.log_loss, rel=1e-5
        ) and mine.ece == pytest.approx(alone.ece, abs=1e-5)
    assert result.names == ("weak.onnx", "shapes.onnx") and result.split is None
    assert result.difference == pytest.approx(result.b.accuracy - result.a.accuracy)
    low, high = result.interval
    assert low < result.difference < high
    assert result.a.log_loss is not None and result.b.log_loss is not None
    assert result.log_loss_difference == pytest.approx(
        result.b.log_loss - result.a.log_loss, rel=1e-5
    )
    assert (
        result.log_loss_interval
        and result.log_loss_interval[0] < result.log_loss_difference < result.log_loss_interval[1]
    )
    assert sorted(name for name, _ in result.left_out) == ["box/cut.jpg", "cross/text.jpg"]
    assert "text is not accepted" in dict(result.left_out)["cross/text.jpg"]


def test_every_photo_is_counted_once(result: Comparison, trained: Path, weak: Path) -> None:
    tally = result.tally
    assert tally.n == 38 == sum(row.n for row in result.per_class)
    for name in ("both", "only_a", "only_b", "neither"):
        assert getattr(tally, name) == sum(getattr(row, name) for row in result.per_class)
    assert (
        tally.only_b > tally.only_a and result.p_value == mcnemar(tally.only_a, tally.only_b) < 0.05
    )
    assert result.better == "b"
    assert result.verdict.startswith(
        f"B is better: {tally.only_b} photos only B gets right against {tally.only_a} only A (p "
    )
    a, b = Classifier(weak), Classifier(trained)
    for photo in result.differing:
        assert photo.a.label != photo.b.label
        assert (a.predict(photo.path).label, b.predict(photo.path).label) == (
            photo.a.label,
            photo.b.label,
        )
        assert photo.a.right == (photo.a.label == photo.label) and photo.b.right == (
            photo.b.label == photo.label
        )
    decided = [photo.a.right or photo.b.right for photo in result.differing]
    assert decided == sorted(decided, reverse=True) and sum(decided) == tally.only_a + tally.only_b
    assert tiles(result.differing, limit=2)[0].caption[0] == f"labelled {result.differing[0].label}"


def test_swapping_the_models_mirrors_everything(
    result: Comparison, trained: Path, weak: Path, fresh: Path
) -> None:
    mirrored = compare(trained, weak, fresh)
    assert (mirrored.a, mirrored.b) == (result.b, result.a) and mirrored.p_value == result.p_value
    assert mirrored.difference == -result.difference and mirrored.better == "a"
    assert mirrored.interval == pytest.approx((-result.interval[1], -result.interval[0]))
    assert (mirrored.tally.only_a, mirrored.tally.only_b) == (
        result.tally.only_b,
        result.tally.only_a,
    )
    assert [(p.name, p.a, p.b) for p in mirrored.differing] == [
        (p.name, p.b, p.a) for p in result.differing
    ]


def test_a_model_against_itself(trained: Path, fresh: Path) -> None:
    same = compare(trained, trained, fresh)
    assert (
        same.differing == ()
        and same.p_value == 1
        and same.better is None
        and same.log_loss_difference == 0
    )
    assert same.interval[0] < 0 < same.interval[1]
    assert same.verdict == "No difference: A and B give the same answer on all 38 photos"


def test_little_evidence_shows_no_difference(result: Comparison) -> None:
    tally = dataclasses.replace(result.tally, only_a=3, only_b=7)
    close = dataclasses.replace(result, tally=tally, p_value=mcnemar(3, 7))
    assert close.better is None
    assert close.verdict.startswith("No difference can be shown on")
    assert close.verdict.endswith("7 only B gets right against 3 only A (p = 0.34)")


def test_photos_of_the_training_set_are_counted(trained: Path, weak: Path, shapes: Path) -> None:
    found = compare(weak, trained, shapes, include_seen=True)
    assert found.trained_on == (
        evaluate(weak, shapes, include_seen=True).trained_on,
        evaluate(trained, shapes, include_seen=True).trained_on,
    )
    assert min(found.trained_on) > 30 and found.seen == 0


def test_photos_that_either_model_has_seen_are_set_aside(
    trained: Path, weak: Path, shapes: Path, tmp_path: Path
) -> None:
    seen = seen_by(Classifier(trained)) | seen_by(Classifier(weak))
    folder = tmp_path / "photos"
    shutil.copytree(shapes, folder)
    new = draw_dataset(tmp_path / "new", count=4, seed=91)
    for path in sorted(new.rglob("*.*")):
        shutil.copy(path, folder / path.parent.name / f"new-{path.name}")
    found = compare(weak, trained, folder)
    assert found.tally.n == 12 + 72 - len(seen) and found.seen == len(seen) > 50
    assert found.trained_on == (0, 0) and not found.left_out
    for path in folder.rglob("new-*"):
        path.unlink()
    for label in ("box", "cross", "disc"):
        for path in sorted((folder / label).iterdir()):
            if hashlib.sha256(path.read_bytes()).digest()[:6] not in seen:
                path.unlink()
    with pytest.raises(DatasetError, match=r"A or B has seen all .* photos of .*--all"):
        compare(weak, trained, folder)


@pytest.fixture(scope="module")
def other_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows box and disc, and a class [red]star, but no cross."""
    folder = draw_dataset(
        tmp_path_factory.mktemp("other") / "photos", ("box", "disc", "[red]star"), count=16, seed=3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("models") / "[bold]other <b>.onnx"
        train(folder, output, fixed={"inner": (), "epochs": 20}, backbone="pocket")
        return output


def test_class_sets_that_differ_are_matched_by_name(
    trained: Path, other_classes: Path, fresh: Path
) -> None:
    found = compare(trained, other_classes, fresh)
    assert found.only_classes == (("cross",), ("[red]star",))
    assert {row.label for row in found.per_class} == {"box", "disc"} and found.tally.n == 26
    reasons = [reason for _, reason in found.left_out]
    assert reasons.count("B has no class 'cross'") == 13, (
        "text.jpg among them: its label alone rules it out"
    )
    assert found.a.classes == ("box", "cross", "disc") and set(found.b.classes) == {
        "[red]star",
        "box",
        "disc",
    }
    with pytest.raises(
        DatasetError,
        match=r"no photo on which the models can be compared; the first of 13: .*"
        r"B has no class 'cross'",
    ):
        compare(trained, other_classes, only(fresh, "cross"))


def only(folder: Path, label: str) -> Path:
    """A folder of one class of `folder`, made beside it."""
    kept = folder.parent / f"only {label} of {folder.name}"
    if not kept.exists():
        shutil.copytree(folder / label, kept / label)
    return kept


def test_models_of_different_sizes_see_photos_as_they_are_served(
    tmp_path: Path, trained: Path, fresh: Path
) -> None:
    """The decoder may shrink a JPEG by different factors; both models must get their own pixels."""
    smaller = with_size(trained, tmp_path / "small.onnx", 40)
    found = compare(trained, smaller, fresh)
    alone = evaluate(smaller, fresh).scores
    assert found.b.confusion == alone.confusion and found.b.log_loss == pytest.approx(
        alone.log_loss, rel=1e-5
    )
    assert found.a.confusion == evaluate(trained, fresh).scores.confusion


def with_size(model: Path, output: Path, size: int) -> Path:
    """Return the model for another input size: nearest-pixel upsampling to 128 comes first."""
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(model)
    graph = proto.graph
    index = (np.arange(128) * size // 128).astype(np.int64)
    graph.initializer.append(numpy_helper.from_array(index, "upsample_index"))
    for node in graph.node:
        node.input[:] = ["images_large" if name == "images" else name for name in node.input]
    graph.node.insert(
        0, helper.make_node("Gather", ["images_wide", "upsample_index"], ["images_large"], axis=2)
    )
    graph.node.insert(
        0, helper.make_node("Gather", ["images", "upsample_index"], ["images_wide"], axis=1)
    )
    for axis in (1, 2):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    for entry in proto.metadata_props:
        if entry.key == "tailorbird":
            about = json.loads(entry.value)
            about["resize"]["size"] = size
            del about["self_test"]
            entry.value = json.dumps(about)
    onnx.save(proto, output)
    return output


def test_errors(trained: Path, fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no split 'test'; it has: none"):
        compare(trained, trained, fresh, split="test")
    with pytest.raises(ModelFileError):
        compare(trained, tmp_path / "absent.onnx", fresh)


# --- the command ----------------------------------------------------------------------------------


def test_compare_as_a_process(trained: Path, weak: Path, fresh: Path, tmp_path: Path) -> None:
    done = run(
        "compare",
        weak,
        trained,
        fresh,
        "--csv",
        tmp_path / "d.csv",
        "--contact-sheet",
        tmp_path / "d.jpg",
        code=3,
    )
    assert (
        "B is better: " in done.stdout
        and "95% interval" in done.stdout
        and "They differ on" in done.stdout
    )
    assert (
        "weak.onnx" in done.stdout
        and "only A" in done.stdout
        and "left out: box/cut.jpg" in done.stderr
    )
    (found,) = lines(run("compare", weak, trained, fresh, "--json", code=3))
    assert set(found) == {
        "n",
        "split",
        "seen",
        "a",
        "b",
        "difference",
        "interval",
        "p_value",
        "better",
        "verdict",
        "log_loss_difference",
        "log_loss_interval",
        "tally",
        "per_class",
        "only_classes",
        "differing",
        "left_out",
    }
    assert {"model", "trained_on", "accuracy", "interval", "log_loss", "ece"} <= set(found["a"])
    assert set(found["differing"][0]) == {"path", "label", "a", "b"}
    assert set(found["differing"][0]["a"]) == {"label", "probability", "right"}
    with (tmp_path / "d.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [photo["path"] for photo in found["differing"]]
    assert {row["right"] for row in rows} <= {"a", "b", "neither"}
    with Image.open(tmp_path / "d.jpg") as sheet:
        assert sheet.format == "JPEG"


def test_hostile_names_are_printed_as_they_are(
    trained: Path, other_classes: Path, fresh: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "[red]photos <i>"
    shutil.copytree(fresh / "disc", photos / "disc")
    (photos / "disc" / "=cmd [bold] <b>.jpg").write_bytes(encoded(picture("box", 77)))
    done = run("compare", trained, other_classes, photos, "--csv", tmp_path / "out.csv", "-v")
    assert (
        "[bold]other <b>.onnx" in done.stdout
        and "Classes that only B knows: [red]star" in done.stdout
    )
    same = run(
        "compare",
        trained,
        trained,
        photos,
        "--csv",
        tmp_path / "none.csv",
        "--contact-sheet",
        tmp_path / "none.png",
    )
    assert "No difference: A and B give the same answer on all 14 photos" in same.stdout
    assert (
        tmp_path / "none.csv"
    ).read_text() == "path,label,a,a_probability,b,b_probability,right\n"
    assert "no contact sheet written" in same.stderr and not (tmp_path / "none.png").exists()


def test_training_photos_are_warned_of(trained: Path, shapes: Path) -> None:
    done = run("compare", trained, trained, only(shapes, "disc"), "--all")
    assert "warning: A was trained on" in done.stderr and "warning: B was trained on" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "a.txt"], "the CSV is 'a.txt'; its name must end in .csv"),
        (["--contact-sheet", "a.svg"], "its name must end in .png, .jpg or .jpeg"),
        (["--split", "test"], "has no split 'test'"),
    ],
)
def test_invalid_use_is_reported_in_one_line(
    trained: Path, fresh: Path, options: list[str], said: str
) -> None:
    done = run("compare", trained, trained, fresh, *options, code=2)
    assert said in done.stderr and done.stdout == ""


def test_a_label_that_differs_only_in_how_it_is_written_names_the_one_that_is_meant(
    trained: Path, tmp_path: Path
) -> None:
    folder = draw_dataset(tmp_path / "new", ("box", "disc"), 4, seed=9)
    (folder / "disc").rename(folder / "Disc")
    found = evaluate(trained, folder)
    reasons = {reason for _, reason in found.left_out}
    assert reasons == {
        "the model has no class 'Disc', but 'disc', which differs only in upper and lower case; "
        "give both the same name"
    }
    result = compare(trained, trained, folder)
    assert {reason.partition(" no class")[0] for _, reason in result.left_out} == {"A and B have"}
    assert all("but 'disc', which differs only" in reason for _, reason in result.left_out)
