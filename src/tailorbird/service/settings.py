"""Settings of `tailorbird serve`, with their defaults and reasons."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.corrections.database import default_photos
from tailorbird.inference import DeviceChoice, chosen
from tailorbird.service.page_settings import PageSettings
from tailorbird.service.web.settings import WebSettings
from tailorbird.validation import Problems

PROXIES = "FORWARDED_ALLOW_IPS"


def _proxies_of_environment() -> tuple[str, ...]:
    return tuple(part.strip() for part in os.environ.get(PROXIES, "127.0.0.1,::1").split(","))


@dataclass(frozen=True, kw_only=True)
class ServeSettings(WebSettings):
    """How to serve one model; addresses, access rules and request limits as in `WebSettings`.

    model: the model file; a reload reads it again.
    workers: processes, each with its own session; they share the listening socket and divide
        the cores among them.
    corrections: database of corrections, a path or URL; None stores none.
    photos: folder for the photos of corrections; None stores no photos.
    new_classes: take answers that are no class of the model, as names of new classes. On by
        default: what a model lacks is what only its users can say, their number is bounded, and
        nothing is trained on them without the operator.
    max_pixels: checked in the photo's header, before decoding; half of it for WebP and AVIF.
        50 megapixels is the largest common phone sensor.
    max_photos: photos in one request.
    queue: photos accepted but not yet answered, in each process; further ones are refused at
        once. 64 photos wait less than a second on two cores.
    batch: maximum inference batch size; None: the device's. On the CPU it is small, 2, because a
        run on one core takes as long as all of its photos together, and longer where their
        activations do not fit its cache.
    decode_seconds: processor time that decoding one photo may take; 50 megapixels take one or
        two seconds.
    drain: time after SIGTERM in which the service reports "not ready" and closes connections
        before it stops listening.
    trusted_proxies: addresses or networks of proxies whose X-Forwarded-* headers are believed;
        by default those of the environment variable FORWARDED_ALLOW_IPS, else loopback.
    strict: refuse a model that gives other answers on this device than where it was made.
    device: where the model runs: auto, cpu, cuda and so on; None: that of TAILORBIRD_DEVICE, else
        auto. half: compute in float16, on a device that can.
    page: how the pages present themselves.
    candidate: another model file, which runs on the same photos without answering; each process
        runs one. Its answers are stored with the corrections.
    runtime: folder that the worker processes share: counters for /metrics, and the last model
        that worked.
    """

    model: Path
    workers: int = 1
    corrections: str | None = field(default=None, repr=False)
    photos: Path | None = None
    new_classes: bool = True
    max_pixels: int = 50_000_000
    max_photos: int = 32
    queue: int = 64
    batch: int | None = None
    decode_seconds: float = 10.0
    drain: float = 1.0
    trusted_proxies: tuple[str, ...] = field(default_factory=_proxies_of_environment)
    strict: bool = False
    device: str | None = None
    half: bool = False
    page: PageSettings = field(default_factory=PageSettings)
    candidate: Path | None = None
    runtime: Path | None = None

    @property
    def choice(self) -> DeviceChoice:
        """The device asked for. Raises SettingsError for something that names none."""
        return chosen(self.device, half=self.half)

    def ranges(self) -> list[tuple[str, float, float, float]]:
        """Return (name, value, lowest, highest) of every setting that is a number."""
        return [
            *super().ranges(),
            ("workers", self.workers, 1, 256),
            ("max pixels", self.max_pixels, 4096, 1_000_000_000),
            ("max photos", self.max_photos, 1, 1000),
            ("queue", self.queue, self.max_photos, 100_000),
            ("batch", 1 if self.batch is None else self.batch, 1, 256),
            ("decode seconds", self.decode_seconds, 0.01, 3600),
            ("drain", self.drain, 0, 600),
        ]

    def problems(self) -> list[str]:
        """Return a message for every invalid setting."""
        missing = "candidate requires a database of corrections, which holds its answers"
        without = self.candidate is not None and not self.corrections
        return [
            *super().problems(),
            *([f"{missing}; leave out --corrections off"] if without else []),
        ] + [
            f"the trusted proxy ({PROXIES}) is {proxy!r}; give an IP address, a network such as "
            "10.0.0.0/8, or * for any"
            for proxy in self.trusted_proxies
            if proxy != "*" and not _is_network(proxy)
        ]


def storage_for(
    model: Path, corrections: str | None, *, keep_photos: bool, photos: Path | None
) -> tuple[str | None, Path | None]:
    """Return the database of corrections and the folder of kept photos of a service.

    Args:
        model: the model file.
        corrections: path or URL of the database; `off` for none, None for the default: shop.db
            beside shop.onnx.
        keep_photos: keep the photos that people correct.
        photos: folder for them; by default beside the database, else beside the model.

    Raises:
        SettingsError: a folder without `keep_photos`, or photos without a database.
    """
    database = str(model.with_suffix(".db")) if corrections is None else corrections
    stored = database if database.strip().lower() not in ("off", "none", "no", "") else None
    with Problems() as problems:
        problems.need(
            keep_photos or photos is None,
            f"--photos {photos} requires --keep-photos; add it, or leave --photos out",
        )
        problems.need(
            stored is not None or not keep_photos,
            "--keep-photos requires a database of corrections; leave out --corrections off",
        )
    if not keep_photos or stored is None:
        return stored, None
    return stored, photos or default_photos(stored) or model.with_suffix(".photos")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
