"""Photos of a request: sent raw, as multipart/form-data, or as base64 in JSON.

They are held in memory and never written under a name that a client chose.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tailorbird.images import identify
from tailorbird.service.web.exchange import body_of, media_type, parse_json
from tailorbird.service.web.problems import Problem, invalid

MOST_FIELDS = 16
"""Fields beside photos in one form."""

MOST_FIELD_BYTES = 64 * 1024

MOST_JSON_VALUES = 10_000
"""Values in a JSON body with photos: parsing blocks every other request."""

PHOTO_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")

_DATA_URL = re.compile(rb"\s*data:([\w.+-]+/[\w.+-]+)?(;[\w=.-]+)*;base64,", re.IGNORECASE)
_URL = re.compile(rb"\s*(https?|ftp|s3|gs|file)://\S+\s*", re.IGNORECASE)
_URL_IN_JSON = re.compile(rb'"\s*(https?|ftp|s3|gs|file):\\?/', re.IGNORECASE)
_IS_ADDRESS = (
    "this is the address of a photo; the service fetches nothing: download it and send "
    "the photo's bytes"
)
_FORM_HINT = "send the photo as a file part, `-F photo=@a.jpg` with curl"


@dataclass(frozen=True)
class Upload:
    """One photo as sent; `name` is the client's name, only returned, never used as a path."""

    name: str | None
    data: bytes


@dataclass
class Form:
    """A multipart body: photos in order, and the text fields."""

    photos: list[Upload] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


async def photos_of(request: Request, *, most_photos: int) -> list[Upload]:
    """Return the photos of a request. Raises Problem 400, 413, 415 or 422."""
    kind, options = media_type(request)
    if kind == "multipart/form-data":
        form = parse_form(await body_of(request), options, most_photos=most_photos)
        if form.fields:
            name = next(iter(form.fields))
            raise invalid(
                f"the form has an unknown field {name[:50]!r}; options go into the address, as "
                f"in /v1/predict?top=5&heatmap=1, and for photos: {_FORM_HINT}"
            )
        if not form.photos:
            raise Problem(400, "bad-request", f"the form holds no photo; {_FORM_HINT}")
        return [Upload(each.name, _bytes_of(each.data)) for each in form.photos]
    if kind == "application/json":
        return _of_json(await body_of(request), most_photos)
    if kind and not kind.startswith(PHOTO_TYPES):
        message = (
            f"a body of type {kind[:100]} is not accepted; send the photo as image/jpeg "
            "(`--data-binary @a.jpg -H 'Content-Type: image/jpeg'` with curl), as "
            "multipart/form-data (`-F photo=@a.jpg`), or as application/json with base64: "
            '{"image": "..."}'
        )
        raise Problem(415, "unsupported-media-type", message)
    return [Upload(None, _bytes_of(await body_of(request)))]


def _of_json(body: bytes, most_photos: int) -> list[Upload]:
    """Return photos sent as {"image": BASE64} or {"instances": [{"b64": BASE64}, ...]}."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_JSON_VALUES:
        message = (
            "the JSON holds too many values for base64 photos; tensors go to /v2/models/NAME/infer"
        )
        raise Problem(413, "body-too-large", message)
    content = parse_json(body)
    if isinstance(content, dict) and set(content) == {"image"}:
        found = [content["image"]]
    elif isinstance(content, dict) and set(content) == {"instances"}:
        instances = content["instances"]
        found = list(map(_of_instance, instances)) if isinstance(instances, list) else []
    else:
        found = []
    if not found or not all(isinstance(text, str) for text in found):
        if _URL_IN_JSON.search(body[:4096]):
            raise invalid(_IS_ADDRESS)
        raise invalid(
            'send photos in JSON as {"image": "BASE64"} or {"instances": [{"b64": "BASE64"}]}; '
            "options go into the address, as in /v1/predict?top=5&heatmap=1"
        )
    if len(found) > most_photos:
        raise too_many(most_photos)
    return [Upload(None, _of_text(text)) for text in found]


def _of_instance(instance: Any) -> Any:
    """Return the base64 of one instance: {"b64": ...} or {NAME: {"b64": ...}}."""
    if isinstance(instance, dict) and len(instance) == 1:
        (value,) = instance.values()
        if isinstance(value, dict) and set(value) == {"b64"}:
            return value["b64"]
        return instance.get("b64")
    return None


def _of_text(text: str) -> bytes:
    """Decode a photo that JSON holds as base64 or as a data URL. Raises Problem 422."""
    data = text.encode("utf-8", "replace")
    if _DATA_URL.match(data[:200]) or _URL.match(data[:200]):
        return _bytes_of(data)
    return _from_base64(data)


def _from_base64(data: bytes) -> bytes:
    text = data.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("the photo is not valid base64; encode the file's bytes") from None


def _bytes_of(data: bytes) -> bytes:
    """Return a photo's bytes. Decodes data URLs; refuses addresses and bare base64 with a hint."""
    if found := _DATA_URL.match(data[:200]):
        return _from_base64(data[found.end() :])
    if len(data) < 4096 and _URL.fullmatch(data):
        raise invalid(_IS_ADDRESS)
    if _is_base64_of_a_photo(data):
        raise invalid(
            "this is base64; send the photo's bytes themselves, or as application/json: "
            '{"image": "..."}'
        )
    return data


def _is_base64_of_a_photo(data: bytes) -> bool:
    start = data[:200].translate(None, b" \t\r\n")[:64]
    try:
        row = identify(base64.b64decode(start[: len(start) // 4 * 4], validate=True))
    except (binascii.Error, ValueError):
        return False
    return row is not None and row.pillow is not None


def too_many(most_photos: int) -> Problem:
    """Return 400: more photos than one request may hold."""
    message = f"more than {most_photos} photos in one request; send them in several"
    return Problem(400, "too-many-parts", message)


def parse_form(body: bytes, options: dict[bytes, bytes], *, most_photos: int) -> Form:
    """Parse a multipart body.

    A part with a file name, of an image's type, or named `photo`, is a photo.

    Raises Problem 400 for a damaged body, 400 `too-many-parts` for more than `most_photos` photos
    or MOST_FIELDS fields.
    """
    boundary = options.get(b"boundary")
    if not boundary:
        raise Problem(400, "bad-request", "the content type multipart/form-data lacks its boundary")
    reader = _Reader(most_photos)
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, "bad-request", f"the multipart body is damaged: {error}") from None
    if not reader.ended:
        raise Problem(400, "bad-request", "the multipart body ends before its last boundary")
    return reader.form


class _Reader:
    """Collects the parts as the parser finds them."""

    def __init__(self, most_photos: int) -> None:
        self.form = Form()
        self.ended = False
        self._parts = 0
        self._most_photos = most_photos
        self._header: list[bytes] = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""
        self._file: str | None = None
        self._is_photo = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers, self._data, self._header, self._size = {}, [], [b"", b""], 0

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            message = (
                "a part of the multipart body has no `Content-Disposition: form-data; name=...`"
            )
            raise Problem(400, "bad-request", message)
        self._name = options[b"name"].decode("utf-8", "replace")
        self._file = _file_name(options, disposition)
        is_image = self._headers.get(b"content-type", b"").strip().lower().startswith(b"image/")
        self._is_photo = self._file is not None or is_image or self._name == "photo"
        if self._is_photo and len(self.form.photos) >= self._most_photos:
            raise too_many(self._most_photos)
        self._parts += 1
        if self._parts - len(self.form.photos) > MOST_FIELDS + self._is_photo:
            raise Problem(400, "too-many-parts", f"more than {MOST_FIELDS} fields in one request")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if not self._is_photo and self._size > MOST_FIELD_BYTES:
            limit = MOST_FIELD_BYTES // 1024
            message = f"the field {self._name[:50]!r} is longer than {limit} KiB"
            raise Problem(413, "body-too-large", message)
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        data = b"".join(self._data)
        if self._is_photo:
            self.form.photos.append(Upload(self._file or None, data))
        else:
            self.form.fields[self._name] = data.decode("utf-8", "replace")
        self._data = []

    def _end(self) -> None:
        self.ended = True


def _file_name(options: dict[bytes, bytes], disposition: bytes) -> str | None:
    """Return a part's file name, from `filename` or from `filename*` (RFC 5987); None without."""
    if (plain := options.get(b"filename")) is not None:
        return plain.decode("utf-8", "replace")[:255]
    found = re.search(rb";\s*filename\*\s*=\s*\"?([\w-]*)'[^';]*'([^;\s\"]*)", disposition, re.I)
    if found is None:
        return None
    try:
        return unquote(found[2].decode("ascii", "replace"), found[1].decode() or "utf-8")[:255]
    except LookupError:
        return unquote(found[2].decode("ascii", "replace"))[:255]
