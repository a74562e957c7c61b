"""The command line as users and programs see it: processes, exit codes, output streams."""

from __future__ import annotations

import array
import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO

import pytest

from support.cli import POCKET, lines, run
from support.data import MakeDataset, draw_dataset, encoded, picture
from support.hostile_images import bomb
from support.server import eventually
from tailorbird.files import exact_cell, formula_safe


def test_train_json_and_what_programs_read(shapes: Path, tmp_path: Path) -> None:
    done = run(
        "train",
        shapes,
        "-o",
        tmp_path / "m.onnx",
        "--json",
        "--inner",
        "0",
        "--epochs",
        12,
        "--learning-rate",
        "0.01",
        *POCKET,
    )
    (found,) = lines(done)
    assert set(found) >= {"model", "report", "seconds", "scores", "settings", "left_out"}
    assert set(found["seconds"]) >= {"scan", "embed", "head", "total"} and set(found["scores"]) == {
        "validation",
        "test",
    }
    assert set(found["scores"]["test"]) >= {
        "n", "accuracy", "interval", "top3", "log_loss", "ece", "macro", "per_class", "classes",
        "confusion", "majority_baseline", "threshold", "coverage",
    }  # fmt: skip
    assert (
        found["settings"]["inner"] == []
        and found["settings"]["epochs"] == 12
        and found["settings"]["learning_rate"] == 0.01
    )
    assert "72 files, 1 view each, pocket at 128 px: about" in done.stderr, (
        "the expected time comes first"
    )


def test_train_and_evaluate_for_people(shapes: Path, tmp_path: Path) -> None:
    done = run("train", shapes, "-o", tmp_path / "m.onnx")
    assert "72 files, 1 view each, lite at 260 px: about" in done.stderr
    for words in (
        "photos are too few to say: of new ones, between",
        "95% interval",
        "precision",
        "answers were right",
        f"Model: {tmp_path / 'm.onnx'}",
    ):
        assert words in done.stdout
    assert "read+embed" in done.stderr and "read+embed" not in done.stdout
    quiet = run("train", shapes, "-o", tmp_path / "m.onnx", "-q", *POCKET)
    assert quiet.stderr == "" and "photos are too few to say" in quiet.stdout
    done = run("evaluate", tmp_path / "m.onnx", shapes)
    assert (
        "Confusion matrix: rows are true classes" in done.stdout
        and "Photos new to the model: " in done.stdout
    )
    for options, count in (((), 15), (("--all",), 72)):
        (found,) = lines(run("evaluate", tmp_path / "m.onnx", shapes, "--json", *options))
        assert found["n"] == sum(map(sum, found["confusion"])) == count and "mistakes" in found


def test_scan_exit_codes_and_json(shapes: Path, make_dataset: MakeDataset) -> None:
    (clean,) = lines(run("scan", shapes, "--json"))
    assert (
        clean["images"] == 72
        and clean["classes"] == {"box": 24, "cross": 24, "disc": 24}
        and clean["findings"] == []
    )
    assert "No findings." in run("scan", shapes).stdout
    folder = make_dataset("with space and ü")
    (folder / "box" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "disc" / "again.jpg").write_bytes((folder / "disc" / "disc-000.jpg").read_bytes())
    (found,) = lines(run("scan", folder, "--json", code=3))
    kinds = {finding["kind"]: finding["paths"] for finding in found["findings"]}
    assert kinds == {
        "unreadable": ["box/broken.jpg"],
        "duplicate": ["disc/again.jpg", "disc/disc-000.jpg"],
    }
    text = run("scan", folder, code=3).stdout
    assert "Findings: 1 unreadable, 1 duplicate" in text.replace(
        "1 duplicate, 1 unreadable", "1 unreadable, 1 duplicate"
    )


def test_scan_writes_a_manifest_that_can_be_scanned(shapes: Path, tmp_path: Path) -> None:
    run("scan", shapes, "--manifest", tmp_path / "split.csv")
    (found,) = lines(run("scan", tmp_path / "split.csv", "--json"))
    assert found["images"] == 72 and set(found["splits"]) == {"train", "validation", "test"}


def test_scan_says_how_many_photos_of_a_manifest_train_leaves_out(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    folder, manifest = make_dataset(), tmp_path / "split.csv"
    assert "leave out" not in run("scan", folder, "--manifest", manifest).stderr
    for number in range(3):
        shutil.copy(folder / "disc" / "disc-000.jpg", folder / "disc" / f"again-{number}.jpg")
    done = run("scan", folder, "--manifest", manifest, code=3)
    assert "`train` will leave out 3 of its photos: identical to another" in done.stderr
    options = ("--epochs", 1, "--inner", 0, "--no-report", "--json")
    (trained,) = lines(run("train", manifest, "-o", tmp_path / "m.onnx", *options))
    assert len(trained["left_out"]) == 3


def test_predict_continues_after_bad_files_and_exits_3(trained: Path, tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "new", count=4)
    bad = {
        "empty.jpg": b"",
        "cut.jpg": encoded(picture("disc", 1))[:600],
        "bomb.png": bomb(),
        "drawing.svg": b"<svg xmlns='x'/>",
        "renamed.jpg": b"<svg xmlns='x'/>",
        "text.jpg": b"hello",
    }
    for name, data in bad.items():
        (folder / "box" / name).write_bytes(data)
    done = run("predict", trained, folder, "--json", code=3)
    found = {Path(line["path"]).name: line for line in lines(done)}
    assert len(found) == 12 + len(bad)
    for name in bad:
        assert set(found[name]) == {"path", "error"} and name in done.stderr
    assert (
        "a side may have at most 65,535" in found["bomb.png"]["error"]
        and "0 bytes" in found["empty.jpg"]["error"]
    )
    assert (
        "SVG is not accepted" in found["renamed.jpg"]["error"]
        and "6 of 18 photos could not be used" in done.stderr
    )
    good = found["disc-000.jpg"]
    assert set(good) == {
        "path", "label", "probability", "unsure", "unfamiliar", "unfamiliarity", "top",
    }  # fmt: skip
    assert len(good["top"]) == 3


def test_predict_as_text_and_csv(trained: Path, tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "new", count=2)
    (folder / "=cmd|calc.jpg").write_bytes(encoded(picture("box", 3)))
    done = run("predict", trained, folder)
    assert len(done.stdout.splitlines()) == 7 and all(
        line.count("\t") == 3 for line in done.stdout.splitlines()
    )
    rows = list(
        csv.DictReader(io.StringIO(run("predict", trained, folder, "--csv", "--top", 2).stdout))
    )
    assert len(rows) == 7 and set(rows[0]) == {
        "path",
        "label",
        "probability",
        "unsure",
        "label2",
        "probability2",
        "error",
        "unfamiliar",
    }
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    relative = subprocess.run(
        [sys.executable, "-m", "tailorbird", "predict", str(trained), "=cmd|calc.jpg", "--csv"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert relative.stdout.splitlines()[1].startswith("'=cmd|calc.jpg,"), (
        "a spreadsheet must not run a file's name"
    )
    assert run("predict", trained, folder, "--csv", "--json", code=2).stderr.startswith(
        "tailorbird: --json and --csv were both given"
    )


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("a=b", "a=b"),
        ("-", "-"),
    ],
)
def test_formula_safe(cell: str, safe: str) -> None:
    assert formula_safe(cell) == safe


@pytest.mark.parametrize("cell", ["=1+1", "-5", "-", "'-", "''-", "'=x", "'quoted'", "", "a", "+"])
def test_a_guarded_cell_is_read_back_exactly(cell: str) -> None:
    safe = formula_safe(cell)
    assert exact_cell(safe) == cell
    assert safe == "-" or not safe.startswith(("=", "+", "-", "@"))


def test_predict_reads_standard_input_and_globs(trained: Path, tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "new", count=2)
    photo = folder / "box" / "box-000.jpg"
    direct = lines(run("predict", trained, photo, "--json"))[0]
    piped = lines(run("predict", trained, "-", "--json", stdin=photo.read_bytes()))[0]
    assert piped["path"] is None and piped["top"] == direct["top"]
    listed = lines(
        run("predict", trained, "-", "--json", stdin=f"{photo}\n{folder / 'disc'}\n".encode())
    )
    assert [line["path"] for line in listed] == [
        str(photo),
        *(str(folder / "disc" / f"disc-00{i}.jpg") for i in (0, 1)),
    ]
    assert len(lines(run("predict", trained, f"{folder}/*/*-001.jpg", "--json"))) == 3
    assert "no file matches" in run("predict", trained, f"{folder}/*.gif", code=2).stderr
    assert "no such file" in run("predict", trained, folder / "gone.jpg", code=3).stderr
    (tmp_path / "none").mkdir()
    assert "holds no photos" in run("predict", trained, tmp_path / "none", code=2).stderr


def test_predict_and_explain_select_the_files_of_a_folder_as_scan_does(
    trained: Path, tmp_path: Path
) -> None:
    """By content: odd endings are read, what systems leave behind and documents are not."""
    folder = tmp_path / "new"
    photos = ["a.jpg", "b.JPG_large", "c.jpg.1", "d", "e.tif", "f.ppm", "class/g.dat", "h.jpg~"]
    left_out = [".ipynb_checkpoints/a.jpg", "@eaDir/a.jpg", "__MACOSX/._a.jpg", ".a.jpg"]
    documents = ["README.md", "labels.csv", "LICENSE", "Thumbs.db"]
    for number, name in enumerate((*photos, *left_out, *documents)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".tif": "TIFF", ".ppm": "PPM"}.get(path.suffix, "JPEG")
        data = b"words" if name in documents else encoded(picture("box", number), kind)
        path.write_bytes(data)
    expected = sorted(str(folder / name) for name in photos)
    assert sorted(line["path"] for line in lines(run("predict", trained, folder, "--json"))) == (
        expected
    )
    explained = run("explain", trained, folder, "-o", tmp_path / "out", "--json")
    assert sorted(line["path"] for line in lines(explained)) == expected
    (folder / "film.xyz").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(40))
    done = run("predict", trained, folder, "--json", code=3)
    assert len(lines(done)) == 9 and "MP4 video is not accepted" in done.stderr


def test_links_to_other_folders_are_reported(trained: Path, tmp_path: Path) -> None:
    outside = draw_dataset(tmp_path / "outside", labels=("box",), count=1) / "box" / "box-000.jpg"
    folder = draw_dataset(tmp_path / "new", labels=("box",), count=1)
    (folder / "linked.jpg").symlink_to(outside)
    done = run("predict", trained, folder, "--json")
    assert len(lines(done)) == 1 and "--follow-links" in done.stderr
    done = run("predict", trained, folder, "--json", "--follow-links")
    assert len(lines(done)) == 2 and "warning" not in done.stderr


def test_invalid_paths_among_valid_ones_are_reported(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    names = ["x" * 300, str(tmp_path / "empty"), "**.jpg", f"{shapes}/disc/disc-001.jpg", "BMW.jpg"]
    done = run("predict", trained, "-", "--json", stdin="\n".join(names).encode(), code=3)
    assert [("label" in line) for line in lines(done)] == [False, False, False, True, False]
    done = run(
        "predict",
        trained,
        "-",
        "--json",
        stdin=f"BMW.jpg\n{shapes}/disc/disc-001.jpg\n".encode(),
        code=3,
    )
    assert "BMW.jpg" in done.stderr and len(lines(done)) == 2
    assert "an empty name was given" in run("predict", trained, "", code=2).stderr
    assert "File name too long" in run("predict", trained, "x" * 300, code=3).stderr


def test_evaluate_warns_about_photos_the_model_was_trained_on(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    done = run("evaluate", trained, shapes, "--all", "--json")
    (found,) = lines(done)
    assert 40 <= found["trained_on"] <= 60 and "the model was trained on" in done.stderr
    assert found["n"] == 72 and found["seen"] == 0
    new = draw_dataset(tmp_path / "new", count=4, seed=5)
    done = run("evaluate", trained, new, "--json")
    assert lines(done)[0]["trained_on"] == lines(done)[0]["seen"] == 0
    assert "trained on" not in done.stderr


def test_evaluate_and_compare_use_photos_the_model_has_not_seen(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    for command in (("evaluate", trained), ("compare", trained, trained)):
        done = run(*command, shapes, "--json")
        (found,) = lines(done)
        test = json.loads(run("report", trained, "--format", "json").stdout)["scores"]["test"]
        assert found["n"] == test["n"] and found["seen"] == 72 - test["n"]
        assert f"{found['seen']} photos the model was trained or chosen on set aside" in done.stderr
    assert lines(run("evaluate", trained, shapes, "--json"))[0]["accuracy"] == test["accuracy"]


def test_unusual_file_names_are_accepted(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Über größe – 雪"
    folder.mkdir()
    (folder / "LICENSE").write_text("words")
    names = [
        b"noextension",
        b"latin-\xe9.jpg",
        ("n" * 250 + ".jpg").encode(),
        b"tab\there [bold]x.jpg",
        b"line\nbreak.jpg",
    ]
    for number, name in enumerate(names):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(encoded(picture("box", number)))
    assert len(lines(run("predict", trained, folder, "--json"))) == 5
    assert len(run("predict", trained, folder).stdout.splitlines()) == 5
    assert len(list(csv.reader(io.StringIO(run("predict", trained, folder, "--csv").stdout)))) == 6


def test_output_can_be_cut_short(trained: Path, shapes: Path) -> None:
    folders = f"'{shapes}' " * 20  # more than fits into a pipe
    command = f"'{sys.executable}' -m tailorbird predict '{trained}' {folders} --json | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert (
        json.loads(done.stdout)["label"]
        and "Traceback" not in done.stderr
        and "Broken" not in done.stderr
    )


def test_results_reach_the_file_while_the_bar_is_on_the_terminal(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    """Standard error is a terminal and standard output a file: neither may go to the other."""
    terminal, child = pty.openpty()
    with (tmp_path / "out.jsonl").open("wb") as out:
        command = [
            sys.executable,
            "-m",
            "tailorbird",
            "predict",
            str(trained),
            str(shapes),
            "--json",
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=child)
    os.close(child)
    shown = b""
    with contextlib.suppress(
        OSError
    ):  # reading ends with an error when the last process closes the terminal
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert (
        len([json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]) == 72
    )
    assert b"predict" in shown and b"72/72" in shown and b'"label"' not in shown


def test_bad_input_exits_2_in_one_line(tmp_path: Path, shapes: Path, trained: Path) -> None:
    for arguments, message in [
        (("scan", tmp_path / "missing"), "does not exist"),
        (("train", tmp_path, "-o", tmp_path / "m.onnx"), "holds no photos"),
        (
            ("train", shapes, "-o", tmp_path / "m.onnx", "--inner", "many"),
            "--inner is 'many'; give sizes of inner layers",
        ),
        (("train", shapes, "-o", tmp_path / "m.onnx", "--dropout", 2), "dropout"),
        (
            ("train", shapes, "-o", tmp_path / "m.onnx", "--backbone", "nope"),
            "there is no backbone named 'nope'; available: lite, pocket",
        ),
        (("predict", tmp_path / "missing.onnx", shapes), "does not exist; check the path"),
        (("predict", shapes / "box" / "box-000.jpg", shapes), "is not an ONNX file"),
        (("evaluate", trained, tmp_path / "missing"), "does not exist"),
    ]:
        done = run(*arguments, code=2)
        assert message in done.stderr and done.stdout == ""
        assert (
            len([line for line in done.stderr.splitlines() if line.startswith("tailorbird: ")]) == 1
        )


def test_usage_errors_exit_2() -> None:
    for arguments in (["nonsense"], ["predict"], ["train", "--epochs", "many", "x"]):
        run(*arguments, code=2)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", "scan", str(tmp_path / "missing"), "--debug"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" in done.stderr and "DatasetError" in done.stderr


def unread(pipe: IO[bytes]) -> int:
    """Return the number of bytes in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_ctrl_c_exits_130(trained: Path, shapes: Path) -> None:
    # Standard input never ends: once predict has read the first path, it waits for the next.
    process = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "predict", str(trained), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(f"{shapes / 'disc' / 'disc-001.jpg'}\n".encode())
    process.stdin.flush()
    eventually(lambda: not unread(process.stdin))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in error


def test_backbones_and_cache(shapes: Path) -> None:
    (found,) = lines(run("backbones", "--json"))
    lite, pocket = found["backbones"]
    assert (lite["name"], lite["input_size"], lite["features"], lite["licence"]) == (
        "lite",
        260,
        1280,
        "Apache-2.0",
    )
    assert (pocket["name"], pocket["input_size"], pocket["features"], pocket["licence"]) == (
        "pocket",
        128,
        512,
        "Apache-2.0",
    )
    assert pocket["images_per_second"] > 10
    text = run("backbones", "-v").stdout
    assert "pocket" in text and "distilled" in text
    run("scan", shapes)
    (before,) = lines(run("cache", "--json"))
    assert before["bytes"] > 0 and before["folder"] == os.environ["TAILORBIRD_CACHE"]
    assert "facts" in run("cache").stdout
    assert lines(run("cache", "clear", "--json")) == [{"freed": before["bytes"]}]
    assert lines(run("cache", "--json"))[0]["bytes"] == 0


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("tailorbird 0.")
    assert "train" in run("--help").stdout


def test_demo_draws_trains_scores_and_prints_next_steps(tmp_path: Path) -> None:
    done = run("demo", tmp_path / "demo", "--per-class", 14)
    assert "photos are too few to say" in done.stdout
    assert (tmp_path / "demo" / "wardrobe.onnx").exists()
    assert "tailorbird train PHOTOS -o shop.onnx" in done.stderr and "hat" in done.stdout
    model = tmp_path / "demo" / "wardrobe.onnx"
    assert f"Try it in a browser: tailorbird serve {model}\n" in done.stderr
    (predicting,) = re.findall(r"not trained on: tailorbird (predict .*)", done.stderr)
    assert "\t" in run(*shlex.split(predicting)).stdout
    elsewhere = run("demo", tmp_path / "demo", "--per-class", 12, PATH="/usr/bin")
    (typed,) = re.findall("Try it in a browser: (.*)", elsewhere.stderr)
    own = [sys.executable, "-m", "tailorbird"]  # where the tests run from the sources alone
    assert shlex.split(typed)[-2:] == ["serve", str(model)]
    command = shlex.split(typed)[:-2]  # a path inside the working folder is printed relative to it
    script = Path(sys.executable).with_name("tailorbird")
    assert command == own or [Path.cwd() / word for word in command] == [script]


def test_warnings_of_the_package_are_lines_and_others_are_dropped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tailorbird.cli import _show_warning
    from tailorbird.rendering.fonts import MissingGlyphs

    _show_warning(MissingGlyphs("no font has x"), MissingGlyphs, "file.py", 3)
    _show_warning("somebody else's", DeprecationWarning, "file.py", 3)
    assert capsys.readouterr().err == "tailorbird: warning: no font has x\n"
