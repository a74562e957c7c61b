"""Pull backbones from the Hugging Face hub: download, adapt, keep.

    hf:OWNER/REPO[@REVISION][:PATH/IN/REPO.onnx]

huggingface_hub downloads: its cache (HF_HOME), mirrors (HF_ENDPOINT), tokens (HF_TOKEN) and offline
mode (HF_HUB_OFFLINE) work as everywhere else.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tailorbird import onnx_files
from tailorbird.backbone import published
from tailorbird.backbone.adapt import ADAPTER, adapt
from tailorbird.backbone.catalogue import SHIPPED, SUFFIX, installed_version
from tailorbird.backbone.catalogue import folder as catalogue_folder
from tailorbird.backbone.hub_errors import is_unreachable, translated
from tailorbird.backbone.reference import Reference, choose, parse
from tailorbird.errors import BackboneError, HubError
from tailorbird.files import sha256_file, write_bytes
from tailorbird.progress import NoProgress, Progress

_SMALL_FILES = ("preprocessor_config.json", "processor_config.json", "config.json", "README.md")


@dataclass(frozen=True)
class _Snapshot:
    """A repository at one commit: its files' sizes by path, None where a size is not known."""

    commit: str
    files: dict[str, int | None]
    offline: bool


@dataclass(frozen=True)
class _Download:
    """The files of one pulled network."""

    commit: str
    name: str
    path: Path
    preprocessor: dict[str, Any]
    config: dict[str, Any]
    card: dict[str, str]


def pull(
    reference: str,
    *,
    size: int | None = None,
    file: str | None = None,
    revision: str | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a network, adapt it to a backbone and keep it; return the path of its file.

    A network that was pulled before and has not changed on the hub is returned at once, also
    without a connection.

    Args:
        reference: `hf:OWNER/REPO[@REVISION][:PATH.onnx]`.
        size: Side of the square input in pixels; None for the publisher's.
        file: The file, if it is not part of the reference.
        revision: The revision, if it is not part of the reference.
        folder: Where to keep the file; None for the catalogue.
        progress: Receives a note on each step.

    Raises:
        SettingsError: The reference or the size is invalid.
        BackboneError: The network is not supported.
        HubError: The download failed.
        StorageError: The disk is full.
    """
    wanted, progress = parse(reference, file=file, revision=revision), progress or NoProgress()
    folder = folder or catalogue_folder()
    kept = _kept(folder, wanted, size)
    if kept and kept[1]["revision"] == wanted.revision:  # a commit, which cannot change
        progress.note(f"{kept[0].name} is available")
        return kept[0]
    with translated(wanted, folder):
        try:
            snapshot = _look_up(wanted)
        except Exception as error:
            if kept is None or not is_unreachable(error):
                raise
            snapshot = _Snapshot(kept[1]["revision"], {}, offline=True)
        if kept and kept[1]["revision"] == snapshot.commit:
            doubt = "; the hub cannot be reached, it may have a newer version"
            progress.note(f"{kept[0].name} is available{doubt if snapshot.offline else ''}")
            return kept[0]
        found = _download(wanted, snapshot, progress)
    progress.note(f"adapting {found.name}")
    target = _target(folder, wanted, found.name, size)
    about = {
        "source": f"hf:{wanted.repo_id}",
        "revision": found.commit,
        "file": found.name,
        "sha256": sha256_file(found.path),
        "pulled_as": _request(wanted, size),
        "adapted_by": f"tailorbird {installed_version()}",
        **found.card,
        "name": target.name.removesuffix(SUFFIX),
    }
    model = adapt(found.path, found.preprocessor, config=found.config, size=size, about=about)
    write_bytes(target, model.SerializeToString())
    progress.note(f"{target.name} is available; licence: {about['licence']}")
    return target


def _look_up(wanted: Reference) -> _Snapshot:
    """Return the commit and files of a repository.

    From the hub, or from the download cache if the hub cannot be reached.
    """
    try:
        info = _api().model_info(wanted.repo_id, revision=wanted.revision, files_metadata=True)
    except Exception as error:
        root = _cached(wanted) if is_unreachable(error) else None
        if root is None:
            raise
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return _Snapshot(root.name, dict.fromkeys(names), offline=True)
    sizes = {entry.rfilename: entry.size for entry in info.siblings or []}
    return _Snapshot(info.sha or "", sizes, offline=False)


def _cached(wanted: Reference) -> Path | None:
    """Return the folder of the download cache that holds this revision, if there is one."""
    import huggingface_hub

    for name in _SMALL_FILES:
        path = huggingface_hub.try_to_load_from_cache(
            wanted.repo_id, name, revision=wanted.revision
        )
        if isinstance(path, str):
            return Path(path).parent
    return None


def _download(wanted: Reference, snapshot: _Snapshot, progress: Progress) -> _Download:
    """Download the network and what describes it."""
    name = choose(wanted, snapshot.files)
    small = {
        entry: _fetch(wanted, snapshot, entry, progress)
        for entry in _SMALL_FILES
        if entry in snapshot.files
    }
    config = _json(small.get("config.json"))
    preprocessor = _preprocessor(wanted, small, config)
    path = _fetch(wanted, snapshot, name, progress)
    for other in published.external_files(path):
        _fetch(wanted, snapshot, str(PurePosixPath(name).parent / other), progress)
    card = _card(small.get("README.md"))
    return _Download(snapshot.commit, name, path, preprocessor, config, card)


def _fetch(wanted: Reference, snapshot: _Snapshot, name: str, progress: Progress) -> Path:
    """Return one file of the repository, from the hub or the download cache."""
    if name not in snapshot.files:
        where = "the download cache has" if snapshot.offline else f"{wanted.repo_id} has"
        raise HubError(
            f"{where} no file {name}, which the network needs; it was published incomplete, "
            "or not all of it was downloaded"
        )
    size = snapshot.files[name] or 0
    if size > published.MOST_BYTES:
        raise BackboneError(
            f"{name} is {size / 1e9:.1f} GB; at most {published.MOST_BYTES / 1e9:.1f} GB fit into "
            "one backbone file"
        )
    if name not in _SMALL_FILES:
        progress.note(f"downloading {name}" + (f", {size / 1e6:.1f} MB" if size else ""))
    # By the revision's own name, so that the cache finds it again without a connection.
    path = Path(
        _api().hf_hub_download(
            wanted.repo_id, name, revision=wanted.revision, local_files_only=snapshot.offline
        )
    )
    commit = path.parents[len(PurePosixPath(name).parts) - 1].name
    if commit != snapshot.commit:
        raise HubError(
            f"{wanted.repo_id} changed while it was downloaded ({snapshot.commit[:12]} became "
            f"{commit[:12]}); run the command again"
        )
    return path


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise BackboneError(f"{path.name} of the repository is not JSON: {problem}") from None
    if not isinstance(content, dict):
        raise BackboneError(f"{path.name} of the repository holds no JSON object")
    return content


def _preprocessor(
    wanted: Reference, small: Mapping[str, Path], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the published image processor. Raises BackboneError if there is none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        content = _json(small.get(name))
        if (content and name == "preprocessor_config.json") or "image_processor" in content:
            return content
    if "pretrained_cfg" in config:  # timm keeps it in config.json
        return {}
    raise BackboneError(
        f"{wanted.repo_id} has no preprocessor_config.json, so that it is not known how its pixels "
        "are prepared; use another repository of the same network that has one, for example under "
        "onnx-community or Xenova"
    )


def _card(readme: Path | None) -> dict[str, str]:
    """Return licence, training data and base model as the model card's header states them."""
    stated: dict[str, Any] = {}
    if readme is not None:
        from huggingface_hub import metadata_load

        with contextlib.suppress(Exception):  # a header that is not YAML states nothing
            stated = metadata_load(readme) or {}
    licence = stated.get("license") or "unknown"
    if licence == "other" and stated.get("license_name"):
        licence = stated["license_name"]
    if stated.get("license_link"):
        licence = f"{licence} ({stated['license_link']})"
    card = {
        "licence": _joined(licence),
        "trained_on": _joined(stated.get("datasets") or "not stated"),
    }
    if stated.get("base_model"):
        card["base_model"] = _joined(stated["base_model"])
    return card


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _request(wanted: Reference, size: int | None) -> str:
    return str(wanted) + (f" size={size}" if size else "")


def _stem(text: str) -> str:
    """Return a part of a file name that is safe on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "backbone"


def _target(folder: Path, wanted: Reference, file: str, size: int | None) -> Path:
    """Return where the backbone is kept.

    The owner is part of the name only if another owner's backbone has the short one.
    """
    variant = re.sub(r"^(vision_)?model[_.-]?", "", PurePosixPath(file).stem)
    revision = "" if wanted.revision in (None, "main") else str(wanted.revision)
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        revision = revision[:12]
    parts = (wanted.repo, variant, revision, str(size or ""))
    name = "-".join(_stem(part[:60]) for part in parts if part)
    short = folder / f"{name}{SUFFIX}"
    if name not in SHIPPED and (
        not short.exists() or _metadata(short).get("source") == f"hf:{wanted.repo_id}"
    ):
        return short
    return folder / f"{_stem(wanted.owner)}--{name}{SUFFIX}"


def _kept(folder: Path, wanted: Reference, size: int | None) -> tuple[Path, dict[str, str]] | None:
    """Return the file that an equal request led to before, and its metadata."""
    for path in sorted(folder.glob(f"*{_stem(wanted.repo[:60])}*{SUFFIX}")):
        stored = _metadata(path)
        same = stored.get("pulled_as") == _request(wanted, size)
        if same and stored.get("adapter") == str(ADAPTER) and "revision" in stored:
            return path, stored
    return None


def _metadata(path: Path) -> dict[str, str]:
    """Return a kept backbone's metadata; empty if the file is damaged, so that it is replaced."""
    try:
        return onnx_files.metadata(onnx_files.read_audited(path, BackboneError))
    except BackboneError:
        return {}


def _api() -> Any:
    import huggingface_hub

    return huggingface_hub.HfApi(library_name="tailorbird", library_version=installed_version())
