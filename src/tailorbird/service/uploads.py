"""Bodies of requests: photos sent raw or as multipart/form-data, held in memory, never written under a name somebody chose."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tailorbird.service.web.exchange import body_of, media_type
from tailorbird.service.web.problems import Problem

MOST_FIELDS = 16
"""Fields beside photos in one form."""

MOST_FIELD_BYTES = 64 * 1024

PHOTO_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True)
class Upload:
    """One photo as sent. `name` is what the client called it: shown back, never used as a path."""

    name: str | None
    data: bytes


@dataclass
class Form:
    """A multipart body: photos in order, and the text fields."""

    photos: list[Upload] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


def parse_form(body: bytes, options: dict[bytes, bytes], *, most_photos: int) -> Form:
    """A multipart body. A part with a file name, or named `photo`, is a photo.

    Raises Problem 400 for a damaged body, 400 `too-many-parts` for more than `most_photos` photos or MOST_FIELDS fields.
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
    """Collects the parts as the parser meets them."""

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
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise Problem(
                400,
                "bad-request",
                "a part of the multipart body has no `Content-Disposition: form-data; name=...`",
            )
        self._name = options[b"name"].decode("utf-8", "replace")
        file = options.get(b"filename")
        self._file = file.decode("utf-8", "replace")[:255] if file is not None else None
        self._is_photo = self._file is not None or self._name == "photo"
        if self._is_photo and len(self.form.photos) >= self._most_photos:
            raise Problem(
                400,
                "too-many-parts",
                f"more than {self._most_photos} photos in one request; send them in several",
            )
        self._parts += 1
        if self._parts - len(self.form.photos) > MOST_FIELDS + self._is_photo:
            raise Problem(400, "too-many-parts", f"more than {MOST_FIELDS} fields in one request")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if not self._is_photo and self._size > MOST_FIELD_BYTES:
            raise Problem(
                413,
                "body-too-large",
                f"the field {self._name[:50]!r} is longer than {MOST_FIELD_BYTES // 1024} KiB",
            )
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


async def photos_of(request: Request, *, most_photos: int) -> list[Upload]:
    """The photos of a request, sent raw or as a form. Raises Problem 400, 413 or 415."""
    kind, options = media_type(request)
    if kind == "multipart/form-data":
        form = parse_form(await body_of(request), options, most_photos=most_photos)
        if not form.photos:
            raise Problem(
                400,
                "bad-request",
                "the form holds no photo; send it as a file part, `-F photo=@a.jpg` with curl",
            )
        return form.photos
    if kind and not kind.startswith(PHOTO_TYPES):
        raise Problem(
            415, "unsupported-media-type",
            f"a body of type {kind[:100]} is not accepted; send the photo as image/jpeg (`--data-binary @a.jpg -H 'Content-Type: image/jpeg'` "
            "with curl) or as multipart/form-data (`-F photo=@a.jpg`)",
        )  # fmt: skip
    return [Upload(None, await body_of(request))]
