"""Partitions computed on a cluster are those of one process, whatever happens to a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from support.cluster_tasks import KilledOnce, Refused
from support.data import encoded, picture
from tailorbird.cluster.partitions import Job
from tailorbird.cluster.running import Done, RaySettings, run
from tailorbird.cluster.work import Features, Predict
from tailorbird.errors import ClusterError, DatasetError, ModelFileError, SettingsError
from tailorbird.model import Classifier, Failure

TWO = RaySettings("local", 2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 12 photos, one of which is none; names with spaces and umlauts."""
    folder = tmp_path / "größe 1"
    (folder / "b").mkdir(parents=True)
    for number in range(11):
        place = folder / ("b" if number % 3 else ".") / f"photo {number:02d}.jpg"
        place.write_bytes(encoded(picture("disc", number), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    return folder


def table_of(folder: Path) -> pa.Table:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([parquet.read_table(part) for part in parts])


def test_a_cluster_gives_the_answers_of_one_process(
    cluster: Any, photos: Path, trained: Path, tmp_path: Path
) -> None:
    task = Predict.of(trained, top=2)
    here = run(Job([str(photos)], str(tmp_path / "here"), rows=5), task)
    there = run(Job([str(photos)], str(tmp_path / "there"), rows=5), task, TWO)
    assert (here.photos, here.failures, here.partitions) == (12, 1, 3)
    assert (there.photos, there.failures, there.workers) == (12, 1, 2)
    found = table_of(tmp_path / "there")
    assert found.equals(table_of(tmp_path / "here"))
    rows = {row["path"]: row for row in found.to_pylist()}
    for answer in Classifier(trained).stream(sorted(photos.rglob("*.jpg"))):
        row = rows[str(answer.path)]
        if isinstance(answer, Failure):
            assert row["error"] == str(answer.error) and row["label"] is None
        else:
            assert row["probability"] == answer.probability
            assert row["label"] == answer.label and row["error"] is None


def test_features_on_a_cluster_are_those_of_one_process(
    cluster: Any, photos: Path, tmp_path: Path
) -> None:
    task = Features.of("pocket", mirror=True)
    run(Job([str(photos)], str(tmp_path / "here"), rows=5), task)
    run(Job([str(photos)], str(tmp_path / "there"), rows=5), task, TWO)
    assert table_of(tmp_path / "there").equals(table_of(tmp_path / "here"))


def test_a_killed_worker_costs_its_partition_only(
    cluster: Any, photos: Path, trained: Path, tmp_path: Path
) -> None:
    task = Predict.of(trained)
    run(Job([str(photos)], str(tmp_path / "here"), rows=1), task)
    mark = tmp_path / "killed"
    killed = KilledOnce(task.model, mark=str(mark))
    done = run(Job([str(photos)], str(tmp_path / "there"), rows=1), killed, TWO)
    assert mark.exists() and done.partitions == 12
    assert table_of(tmp_path / "there").equals(table_of(tmp_path / "here"))


def test_a_second_run_computes_the_missing_partitions_only(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    task = Predict.of(trained)
    run(job, task)
    whole = table_of(tmp_path / "out")
    kept = (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns
    (tmp_path / "out" / "part-00001.parquet").unlink()
    done = run(job, task)
    assert (done.resumed, done.failures, done.partitions) == (2, 1, 3)
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert table_of(tmp_path / "out").equals(whole)
    again = run(job, task)
    assert (again.resumed, again.failures) == (3, 1)


def test_other_photos_or_settings_are_refused(photos: Path, trained: Path, tmp_path: Path) -> None:
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    run(job, Predict.of(trained))
    with pytest.raises(SettingsError, match="top 3, now 2"):
        run(job, Predict.of(trained, top=2))
    with pytest.raises(SettingsError, match="partition_rows 5, now 6"):
        run(Job([str(photos)], job.output, rows=6), Predict.of(trained))
    (photos / "new.jpg").write_bytes(encoded(picture("disc", 99), "JPEG"))
    with pytest.raises(SettingsError, match="photos 12, now 13"):
        run(job, Predict.of(trained))


def test_errors_of_workers_are_raised_here(
    cluster: Any, photos: Path, trained: Path, tmp_path: Path
) -> None:
    model = trained.read_bytes()
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    with pytest.raises(ModelFileError, match=r"^no such model here$"):
        run(job, Refused(model), TWO)
    with pytest.raises(ClusterError, match="ZeroDivisionError: a mistake"):
        run(job, Refused(model, mistake=True), TWO)


def test_progress_and_the_summary_count_photos(photos: Path, trained: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Watching:
        def stage(self, name: str, total: int | None = None) -> None: ...

        def advance(self, done: int, total: int) -> None:
            seen.append((done, total))

        def note(self, text: str) -> None: ...

        def metrics(self, **values: float) -> None: ...

    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    done = run(job, Predict.of(trained), progress=Watching())
    assert seen == [(0, 12), (5, 12), (10, 12), (12, 12)]
    assert isinstance(done, Done) and json.dumps(done.as_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "nowhere"}, "must be local, auto, or HOST:PORT"),
        ({"address": "local", "workers": 0}, "workers is 0"),
        ({"workers": 2}, "add --ray"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RaySettings(**settings)


def test_a_run_is_not_resumed_from_a_damaged_or_deleted_partition(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    run(job, Predict.of(trained))
    part = tmp_path / "out" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"part-00001\.parquet is damaged; delete it"):
        run(job, Predict.of(trained))
    part.unlink()
    assert run(job, Predict.of(trained)).resumed == 2
    about = tmp_path / "out" / "_about.json"
    for content in (b"{", b"[]"):
        about.write_bytes(content)
        with pytest.raises(SettingsError, match=r"_about\.json is damaged; choose another"):
            run(job, Predict.of(trained))
