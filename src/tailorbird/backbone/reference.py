"""How a network on the hub is named, and which of a repository's ONNX files is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tailorbird.errors import BackboneError, HubError, MissingExtra, SettingsError

# A repository has a vision_model.onnx only when its model.onnx also wants text, so the former comes first.
PREFERRED = ("onnx/vision_model.onnx", "vision_model.onnx", "onnx/model.onnx", "model.onnx")

_REFERENCE = re.compile(
    r"hf:(?P<owner>\w[\w.-]*)/(?P<repo>\w[\w.-]*)(?:@(?P<revision>[^@:\s]+))?(?::(?P<file>[^:]+\.onnx))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Reference:
    """A network on the hub. `revision` None means the default branch, `file` None the usual ONNX file."""

    owner: str
    repo: str
    revision: str | None = None
    file: str | None = None

    @property
    def repo_id(self) -> str:
        """OWNER/REPO."""
        return f"{self.owner}/{self.repo}"

    def __str__(self) -> str:
        revision, file = (
            f"@{self.revision}" if self.revision else "",
            f":{self.file}" if self.file else "",
        )
        return f"hf:{self.repo_id}{revision}{file}"


def parse(reference: str, *, file: str | None = None, revision: str | None = None) -> Reference:
    """Read `hf:OWNER/REPO[@REVISION][:PATH.onnx]`; `file` and `revision` may be given beside it instead.

    Raises SettingsError for another form, MissingExtra for `timm:`.
    """
    if reference.startswith("timm:"):
        raise MissingExtra(
            f"{reference}: this version of tailorbird has no timm engine; tailorbird[timm] is to bring it; "
            "until then pull a network that is published as ONNX: hf:OWNER/REPO, or one of Keras': keras:NAME"
        )
    found = _REFERENCE.fullmatch(reference.strip())
    if found is None:
        engine = (
            "; keras:NAME is for tailorbird.engines.keras.pull"
            if reference.lower().startswith("keras:")
            else ""
        )
        advice = (
            engine or f"; did you mean hf:{reference}?"
            if re.fullmatch(r"[\w.-]+/[\w.-]+", reference)
            else engine
        )
        raise SettingsError(
            f"{reference!r} is no reference to a backbone; give hf:OWNER/REPO, hf:OWNER/REPO@REVISION or "
            f"hf:OWNER/REPO:onnx/model.onnx, for example hf:onnx-community/dinov2-small{advice}"
        )
    parsed = Reference(found["owner"], found["repo"], found["revision"], found["file"])
    for name, said, given in (("file", parsed.file, file), ("revision", parsed.revision, revision)):
        if said and given and said != given:
            raise SettingsError(
                f"{reference} names the {name} {said!r} and {name} = {given!r} another; give one of them"
            )
    parsed = replace(parsed, file=parsed.file or file, revision=parsed.revision or revision)
    if parsed.file and (
        parsed.file.startswith("/")
        or ".." in PurePosixPath(parsed.file).parts
        or not parsed.file.endswith(".onnx")
    ):
        raise SettingsError(
            f"file = {parsed.file!r}; give the path of an .onnx file in the repository, such as onnx/model.onnx"
        )
    return parsed


def choose(wanted: Reference, files: Mapping[str, int | None]) -> str:
    """The ONNX file of a repository to use. Raises BackboneError listing those there are, HubError for a file that is not there."""
    found = sorted(name for name in files if name.endswith(".onnx"))
    listed = ", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
    if wanted.file:
        # The file's name alone will do where only one folder has it.
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
            f"{wanted.repo_id} has no ONNX file; look for the same network under onnx-community or Xenova, "
            "whose repositories have one (tag: image-feature-extraction)"
        )
    for name in PREFERRED:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    raise BackboneError(
        f"{wanted.repo_id} has several ONNX files and none is the usual one: {listed}; pick one: hf:{wanted.repo_id}:{found[0]}"
    )
