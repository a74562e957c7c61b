"""References to networks on the hub, and the choice among a repository's ONNX files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tailorbird.errors import BackboneError, HubError, SettingsError

# A repository has a vision_model.onnx only if its model.onnx also takes text, so that comes first.
PREFERRED = ("onnx/vision_model.onnx", "vision_model.onnx", "onnx/model.onnx", "model.onnx")

MOST_LISTED = 12

_REFERENCE = re.compile(
    r"hf:(?P<owner>\w[\w.-]*)/(?P<repo>\w[\w.-]*)(?:@(?P<revision>[^@:\s]+))?"
    r"(?::(?P<file>[^:]+\.onnx))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Reference:
    """A network on the hub.

    Attributes:
        owner: Owner of the repository.
        repo: Name of the repository.
        revision: A branch, tag or commit; None for the default branch.
        file: Path of the ONNX file in the repository; None for the usual one.
    """

    owner: str
    repo: str
    revision: str | None = None
    file: str | None = None

    @property
    def repo_id(self) -> str:
        """OWNER/REPO."""
        return f"{self.owner}/{self.repo}"

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f":{self.file}" if self.file else ""
        return f"hf:{self.repo_id}{revision}{file}"


def parse(reference: str, *, file: str | None = None, revision: str | None = None) -> Reference:
    """Parse `hf:OWNER/REPO[@REVISION][:PATH.onnx]`.

    Args:
        reference: The text.
        file: The file, if it is not part of the reference.
        revision: The revision, if it is not part of the reference.

    Raises:
        SettingsError: The text has another form.
    """
    found = _REFERENCE.fullmatch(reference.strip())
    if found is None:
        bare = re.fullmatch(r"[\w.-]+/[\w.-]+", reference)
        advice = f"; did you mean hf:{reference}?" if bare else ""
        raise SettingsError(
            f"{reference!r} is not a valid backbone reference; give hf:OWNER/REPO, "
            "hf:OWNER/REPO@REVISION or hf:OWNER/REPO:onnx/model.onnx, for example "
            f"hf:onnx-community/dinov2-small{advice}"
        )
    parsed = Reference(found["owner"], found["repo"], found["revision"], found["file"])
    for name, inside, given in (
        ("file", parsed.file, file),
        ("revision", parsed.revision, revision),
    ):
        if inside and given and inside != given:
            raise SettingsError(
                f"{reference} has the {name} {inside!r}, and {name} = {given!r} is another; "
                "give one of them"
            )
    parsed = replace(parsed, file=parsed.file or file, revision=parsed.revision or revision)
    path = PurePosixPath(parsed.file or "x.onnx")
    if path.is_absolute() or ".." in path.parts or path.suffix != ".onnx":
        raise SettingsError(
            f"file = {parsed.file!r}; give the path of an .onnx file in the repository, "
            "such as onnx/model.onnx"
        )
    return parsed


def choose(wanted: Reference, files: Mapping[str, int | None]) -> str:
    """Choose the ONNX file of a repository.

    Args:
        wanted: The reference, which may name the file.
        files: The repository's files.

    Raises:
        BackboneError: The repository has no ONNX file, or several and none with a usual name; the
            message lists them.
        HubError: The file named is not there.
    """
    found = sorted(name for name in files if name.endswith(".onnx"))
    listed = ", ".join(found[:MOST_LISTED])
    if len(found) > MOST_LISTED:
        listed += f" and {len(found) - MOST_LISTED} more"
    if wanted.file:
        # The file's name alone suffices if only one folder has it.
        same = [name for name in found if name == wanted.file] or [
            name for name in found if PurePosixPath(name).name == wanted.file
        ]
        if len(same) == 1:
            return same[0]
        raise HubError(
            f"{wanted.repo_id} has no file {wanted.file}; its ONNX files: {listed or 'none'}"
        )
    if not found:
        raise BackboneError(
            f"{wanted.repo_id} has no ONNX file; look for the same network under onnx-community or "
            "Xenova, whose repositories have one (tag: image-feature-extraction)"
        )
    usual = [name for name in PREFERRED if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    raise BackboneError(
        f"{wanted.repo_id} has several ONNX files and none is the usual one: {listed}; "
        f"choose one: hf:{wanted.repo_id}:{found[0]}"
    )
