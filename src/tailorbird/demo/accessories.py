"""The cut of shoes and hats: outlines with random proportions, before material, pose and light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tailorbird.demo.outline import (
    Array,
    Garment,
    Part,
    Rng,
    chance,
    closed,
    curve,
    flipped,
    mirrored,
    oval,
    turned,
)


def shoes(rng: Rng) -> Garment:
    """One shoe or a pair: sneakers, boots, pumps and loafers from the side, or a pair from above."""
    kind = str(
        rng.choice(["sneaker", "boot", "pump", "loafer", "above"], p=[0.32, 0.2, 0.15, 0.13, 0.2])
    )
    if kind == "above":
        return _from_above(rng)
    one = {"sneaker": _sneaker, "boot": _boot, "pump": _pump, "loafer": _loafer}[kind](rng)
    fabrics = {"sneaker": "plain plain melange denim", "boot": "leather leather suede"}.get(
        kind, "leather leather suede shiny"
    )
    if chance(rng, 0.3):
        return Garment(tuple(one), stands=True, fabrics=fabrics)
    shift = np.array([rng.uniform(0.12, 0.4), rng.uniform(-0.34, -0.16)])
    side = -1 if chance(rng, 0.25) else 1
    other = [replace(p, lines=tuple(line * (side, 1) + shift for line in p.lines)) for p in one]
    return Garment((*other, *one), stands=True, fabrics=fabrics)


def _sole(left: float, right: float, top: float, low: float, rise: float) -> Array:
    return closed(
        (left, top),
        (0, top + 0.02),
        (right - 0.04, top - rise, 0.15),
        (right + 0.03, top - rise + 0.06, 0.12),
        (right - 0.1, low, 0.0),
        (left + 0.05, low, 0.15),
        (left - 0.01, (top + low) / 2, 0.15),
    )


def _sneaker(rng: Rng) -> list[Part]:
    thick, high = (
        rng.uniform(0.1, 0.18),
        rng.uniform(-0.55, -0.45) if chance(rng, 0.35) else rng.uniform(-0.3, -0.18),
    )
    upper = closed(
        (-0.74, high, 0.0),
        (-0.66, high - 0.04, -0.16),
        (-0.3, high + 0.03, -0.05),
        (-0.17, high - 0.14, 0.15),
        (-0.02, high - 0.06, 0.02),
        (0.38, 0.0, 0.12),
        (0.8, 0.16, 0.22),
        (0.83, 0.34),
        (-0.76, 0.34, 0.07),
    )
    mouth = closed(
        (-0.67, high - 0.02, -0.15),
        (-0.3, high + 0.04),
        (-0.2, high - 0.12),
        (-0.26, high - 0.16, 0.1),
        (-0.6, high - 0.08),
    )
    parts = [Part((mouth,), "lining", lift=0.2), Part((upper,), lift=1.0)]
    toe = closed((0.46, 0.07, 0.14), (0.8, 0.17, 0.22), (0.83, 0.34), (0.52, 0.34, 0.2))
    heel = closed(
        (-0.74, high + 0.12), (-0.55, high + 0.2, -0.1), (-0.5, 0.34), (-0.78, 0.34, 0.05)
    )
    trims = str(rng.choice(["trim", "accent", "sole", "cloth"]))
    parts += [Part((toe,), trims, lift=0.3), Part((heel,), trims, lift=0.3)]
    mark = rng.integers(0, 4)
    if mark == 0:
        parts.append(
            Part(
                tuple(curve((x, 0.3), (x - 0.1, -0.05)) for x in (-0.2, -0.06, 0.08)),
                "accent",
                width=0.06,
                lift=0.2,
            )
        )
    elif mark == 1:
        parts.append(
            Part(
                (closed((-0.45, 0.1, -0.2), (0.35, 0.0, 0.25), (-0.3, 0.27, 0.2)),),
                "accent",
                lift=0.2,
            )
        )
    elif mark == 2:
        parts.append(Part((oval(-0.36, (high + 0.3) / 2, 0.1, 0.1),), "accent", lift=0.2))
    n = int(rng.integers(4, 6))
    t = np.linspace(0.05, 0.9, n)
    laces = tuple(
        curve(
            (-0.1 + 0.42 * k, high + 0.04 + (-0.04 - high) * k, 0.1),
            (-0.22 + 0.42 * k, high + 0.12 + (-0.04 - high) * k),
        )
        for k in t
    )
    parts.append(Part(laces, "stitch", width=0.035, lift=0.5))
    paint = "sole" if chance(rng, 0.75) else "lining"
    parts.append(Part((_sole(-0.78, 0.84, 0.27, 0.32 + thick, 0.05),), paint, lift=0.5))
    parts.append(
        Part(
            (curve((-0.77, 0.3 + thick / 2), (0.0, 0.31 + thick / 2), (0.8, 0.26 + thick / 2)),),
            "shade",
            width=0.012,
            tone=0.8,
        )
    )
    return parts


def _boot(rng: Rng) -> list[Part]:
    high = rng.uniform(-1.15, -0.85) if chance(rng, 0.35) else rng.uniform(-0.75, -0.5)
    wide = rng.uniform(-0.22, -0.14)
    heel = rng.uniform(0.08, 0.2)
    leg = closed(
        (-0.72, high, 0.03),
        (wide, high - 0.02),
        (wide + 0.02, -0.22, -0.16),
        (0.3, 0.04, 0.1),
        (0.72, 0.2, 0.25),
        (0.76, 0.36),
        (-0.66, 0.36, 0.04),
        (-0.64, -0.1, 0.02),
    )
    parts = [
        Part((oval((wide - 0.72) / 2, high, (wide + 0.72) / 2 * 0.97, 0.05),), "lining", lift=0.2),
        Part((leg,), lift=1.1),
    ]
    foot = closed(
        (-0.68, 0.3),
        (0.1, 0.33),
        (0.72, 0.3, 0.05),
        (0.79, 0.4, 0.1),
        (0.1, 0.42),
        (-0.2, 0.4 + heel * 0.2),
        (-0.24, 0.4 + heel),
        (-0.68, 0.4 + heel),
    )
    style = rng.integers(0, 3)
    if style == 0:
        rows = np.linspace(high + 0.1, 0.0, 6)
        laces = tuple(
            curve(
                (wide + 0.01 + 0.15 * max(0, y + 0.25), y),
                (wide - 0.15 + 0.15 * max(0, y + 0.25), y + 0.05),
            )
            for y in rows
        )
        parts.append(Part(laces, "stitch", width=0.03, lift=0.5))
    elif style == 1:
        gore = closed((-0.52, high + 0.03), (-0.32, high + 0.03), (-0.36, -0.12), (-0.46, -0.12))
        parts.append(Part((gore,), "lining", lift=0.2, tone=1.2))
    else:
        parts.append(
            Part((curve((-0.64, -0.05), (wide + 0.03, -0.15)),), "trim", width=0.06, lift=0.5)
        )
        parts.append(Part((oval(-0.3, -0.1, 0.05, 0.05),), "metal", lift=0.5))
    parts.append(
        Part(
            (curve((-0.64, -0.02, -0.1), (-0.1, 0.2, 0.1), (-0.05, 0.34)),),
            "shade",
            width=0.012,
            tone=0.75,
        )
    )
    return [*parts, Part((foot,), str(rng.choice(["lining", "wood", "sole"])), lift=0.5)]


def _pump(rng: Rng) -> list[Part]:
    h = rng.uniform(0.25, 0.6)
    thin = rng.uniform(0.03, 0.12)
    upper = closed(
        (-0.72, -h - 0.16, 0.03),
        (-0.62, -h - 0.18, -0.18),
        (0.28, 0.12, 0.06),
        (0.5, 0.17, 0.1),
        (0.82, 0.36, 0.1),
        (0.8, 0.4),
        (0.3, 0.4, -0.16),
        (-0.46, 0.1 - h, 0.04),
        (-0.72, 0.1 - h, 0.08),
    )
    spike = closed(
        (-0.74, 0.03 - h), (-0.46, 0.08 - h, -0.12), (-0.62 + thin, 0.42), (-0.66, 0.42, -0.05)
    )
    under = curve((-0.6, 0.11 - h, 0.04), (-0.42, 0.12 - h, 0.14), (0.3, 0.41, 0.02), (0.8, 0.41))
    inside = closed(
        (-0.63, -h - 0.16, -0.16), (0.28, 0.13, 0.1), (0.12, 0.1, 0.12), (-0.56, -h - 0.16)
    )
    parts = [
        Part((spike,), "trim", lift=0.6),
        Part((inside,), "sole", lift=0.2, tone=0.85),
        Part((upper,), lift=1.0),
        Part((under,), str(rng.choice(["lining", "accent"])), width=0.03, lift=0.2),
    ]
    if chance(rng, 0.3):
        parts.append(
            Part(
                (curve((-0.66, -h - 0.2, 0.12), (-0.25, -h - 0.12, 0.1), (-0.3, -h + 0.1)),),
                "trim",
                width=0.04,
                lift=0.5,
            )
        )
    if chance(rng, 0.3):
        parts.append(Part((oval(0.42, 0.2, 0.09, 0.07),), "metal", lift=0.6))
    return parts


def _loafer(rng: Rng) -> list[Part]:
    upper = closed(
        (-0.76, -0.12, 0.05),
        (-0.68, -0.14, -0.12),
        (-0.02, -0.02, 0.0),
        (0.06, -0.1, 0.1),
        (0.46, 0.06, 0.1),
        (0.82, 0.2, 0.22),
        (0.84, 0.34),
        (-0.76, 0.34, 0.06),
    )
    mouth = closed(
        (-0.7, -0.12, -0.12), (-0.02, 0.0), (0.04, -0.1), (-0.05, -0.13, 0.04), (-0.62, -0.18)
    )
    seam = curve((0.06, 0.08, 0.1), (0.5, 0.12, 0.05), (0.74, 0.2))
    band = closed((-0.04, -0.04), (0.16, -0.09), (0.26, 0.3), (0.02, 0.3))
    parts = [
        Part((mouth,), "lining", lift=0.2),
        Part((upper,), lift=1.0),
        Part((seam,), "shade", width=0.016, tone=0.7),
    ]
    parts.append(Part((band,), str(rng.choice(["cloth", "trim"])), lift=0.5))
    if chance(rng, 0.5):
        parts.append(Part((oval(0.1, 0.06, 0.06, 0.035),), "metal", lift=0.6))
    heel = closed(
        (-0.76, 0.3), (0.84, 0.28, 0.1), (0.84, 0.36), (-0.3, 0.37), (-0.32, 0.45), (-0.76, 0.45)
    )
    return [*parts, Part((heel,), str(rng.choice(["lining", "wood", "sole"])), lift=0.4)]


def _from_above(rng: Rng) -> Garment:
    wide, toe = rng.uniform(0.24, 0.3), rng.uniform(0.1, 0.3)
    inside = wide * 0.94  # the inner edge is the straighter one
    outer = closed(
        (0, -0.8, toe), (wide, -0.42, 0.05), (wide * 0.84, 0.1, 0.02), (wide * 0.8, 0.6, 0.3), (0, 0.78, 0.3),
        (-inside * 0.83, 0.6, 0.02), (-inside * 0.79, 0.1, 0.03), (-inside, -0.4, toe),
    )  # fmt: skip
    tall = rng.uniform(-0.18, 0.02)
    mouth = mirrored(
        (0, tall, 0.2), (wide * 0.55, tall + 0.2, 0.04), (wide * 0.56, 0.55, 0.25), (0, 0.7)
    )
    vamp = mirrored(
        (0, -0.32, 0.2), (wide * 0.42, -0.2), (wide * 0.5, tall + 0.22, 0.0), (0, tall + 0.12)
    )
    laced = chance(rng, 0.6)
    parts = [
        Part((outer * 1.05,), "sole" if laced else "lining", lift=0.6),
        Part((outer,), lift=1.1),
    ]
    if laced:
        cap = mirrored((0, -0.79, toe), (wide * 0.86, -0.54, -0.1), (0, -0.58))
        rows = np.linspace(-0.26, tall + 0.14, 5)
        laces = tuple(curve((-wide * 0.52, y, 0.05), (wide * 0.52, y + 0.02)) for y in rows)
        parts += [Part((cap,), "sole", lift=0.3), Part((vamp,), "trim", lift=0.3)]
        parts.append(Part(laces, "stitch", width=0.035, lift=0.5))
    elif chance(rng, 0.6):
        parts.append(
            Part(
                (curve((-wide * 0.95, tall - 0.12, 0.2), (wide * 0.95, tall - 0.12)),),
                "trim",
                width=0.1,
                lift=0.5,
            )
        )
    parts.append(Part((mouth,), "lining", lift=0.0))
    parts.append(
        Part(
            (mouth * (0.75, 0.8) + (0, 0.1),), "accent" if chance(rng, 0.3) else "lining", tone=1.25
        )
    )
    gap = wide + rng.uniform(0.08, 0.2)
    turn = rng.uniform(-0.12, 0.25)
    lag = np.array([0.0, rng.normal(0, 0.06)])
    right = [
        replace(p, lines=tuple(line @ turned(turn) + (gap, 0) for line in p.lines)) for p in parts
    ]
    left = [replace(p, lines=tuple(flipped(line) + lag for line in p.lines)) for p in right]
    return Garment((*left, *right), fabrics="plain leather suede denim shiny")


def hat(rng: Rng) -> Garment:
    """A cap, a beanie, a bucket hat or a wide brim from the side, or a straw hat from above."""
    kind = str(
        rng.choice(
            ["cap", "front", "beanie", "bucket", "brim", "above"],
            p=[0.22, 0.14, 0.22, 0.14, 0.18, 0.1],
        )
    )
    cuts = {
        "cap": _cap,
        "front": _cap_front,
        "beanie": _beanie,
        "bucket": _bucket,
        "brim": _brim,
        "above": _straw,
    }
    fabrics = {
        "beanie": "knit knit rib melange",
        "brim": "suede straw melange",
        "above": "straw straw suede",
    }.get(kind, "")
    parts = cuts[kind](rng)
    if chance(rng, 0.5):
        parts = [replace(p, lines=tuple(map(flipped, p.lines))) for p in parts]
    return Garment(tuple(parts), stands=kind != "above", fabrics=fabrics)


def _cap(rng: Rng) -> list[Part]:
    high, long = rng.uniform(0.42, 0.56), rng.uniform(0.4, 0.58)
    dome = closed(
        (-0.5, 0.12, 0.12),
        (-0.42, -0.18, 0.18),
        (0.0, -high, 0.2),
        (0.44, -0.1, 0.06),
        (0.5, 0.1, 0.06),
        (0.0, 0.16, 0.02),
    )
    brim = closed(
        (0.3, 0.06, 0.05),
        (0.52, 0.04, 0.07),
        (0.5 + long, 0.2, 0.3),
        (0.42 + long, 0.26, -0.08),
        (0.22, 0.16),
    )
    seams = (curve((0.0, -high, 0.12), (0.22, 0.12)), curve((0.0, -high, -0.12), (-0.26, 0.13)))
    parts = [
        Part((brim,), str(rng.choice(["cloth", "trim", "accent"])), lift=0.8),
        Part((dome,), lift=1.2),
    ]
    parts.append(Part(seams, "shade", width=0.014, tone=0.72))
    parts.append(Part((oval(0.0, -high, 0.05, 0.025),), "trim", lift=0.5))
    parts.append(
        Part((curve((0.35, 0.13, 0.1), (0.5 + long * 0.9, 0.235)),), "shade", width=0.012, tone=0.7)
    )
    if chance(rng, 0.7):
        parts.append(Part((oval(0.3, -0.12, 0.09, 0.11),), "accent", lift=0.4))
    return parts


def _cap_front(rng: Rng) -> list[Part]:
    high = rng.uniform(0.5, 0.66)
    dome = mirrored((0, -high, 0.14), (0.42, -0.26, 0.1), (0.5, 0.1), (0.0, 0.14))
    droop = rng.uniform(0.24, 0.36)
    brim = mirrored(
        (0, 0.0, 0.06),
        (0.44, 0.07, 0.04),
        (0.56, droop, 0.05),
        (0.4, droop + 0.02, -0.06),
        (0, droop - 0.1),
    )
    parts = [
        Part((dome,), lift=1.2),
        Part((curve((0, -high), (0, 0.02)),), "shade", width=0.012, tone=0.75),
    ]
    seam = curve((0.03, -high, 0.15), (0.3, 0.05))
    parts.append(Part((seam, flipped(seam)), "shade", width=0.012, tone=0.75))
    parts.append(Part((oval(0, -high, 0.05, 0.025),), "trim", lift=0.5))
    if chance(rng, 0.75):
        badge = (
            oval(0, -0.22, 0.14, 0.14)
            if chance(rng, 0.5)
            else closed((-0.18, -0.3), (0.18, -0.3), (0.18, -0.14), (-0.18, -0.14))
        )
        parts.append(Part((badge,), "accent", lift=0.4))
    return [*parts, Part((brim,), str(rng.choice(["cloth", "trim", "accent"])), lift=1.0)]


def _beanie(rng: Rng) -> list[Part]:
    high, wide = rng.uniform(0.5, 0.78), rng.uniform(0.44, 0.52)
    dome = mirrored((0, -high, 0.16), (wide * 0.8, -high * 0.55, 0.12), (wide, 0.14), (0, 0.14))
    deep = rng.uniform(0.18, 0.3)
    cuff = mirrored(
        (0, 0.0, 0.01), (wide + 0.03, -0.02, 0.08), (wide + 0.01, deep, 0.02), (0, deep + 0.03)
    )
    parts = [Part((dome,), lift=1.2, pleats=(6, 0.35))]
    if chance(rng, 0.4):
        t = np.linspace(0, 2 * np.pi, 49)
        r = 0.17 + 0.014 * np.sin(t * 12) + rng.normal(0, 0.004, t.size)
        puff = np.stack([r * np.cos(t), -high - 0.07 + r * np.sin(t)], axis=1)
        parts.insert(0, Part((puff,), str(rng.choice(["accent", "sole", "trim"])), lift=1.0))
    parts.append(Part((cuff,), str(rng.choice(["cloth", "trim"])), lift=0.8))
    if chance(rng, 0.35):
        parts.append(
            Part(
                (closed((-0.1, 0.05), (0.1, 0.05), (0.1, 0.16), (-0.1, 0.16)),), "accent", lift=0.3
            )
        )
    return parts


def _bucket(rng: Rng) -> list[Part]:
    high, wide = rng.uniform(0.4, 0.52), rng.uniform(0.62, 0.8)
    crown = mirrored((0, -high, 0.03), (0.32, -high + 0.03, 0.1), (0.44, 0.06, 0.0), (0, 0.1))
    brim = mirrored((0, 0.02, 0.05), (0.43, 0.0, 0.0), (wide, 0.3, 0.12), (0, 0.42))
    rows = tuple(
        curve((-0.43 - (wide - 0.43) * f, 0.3 * f, -0.06), (0.43 + (wide - 0.43) * f, 0.3 * f))
        for f in (0.3, 0.55, 0.8)
    )
    return [
        Part((brim,), lift=0.9),
        Part(rows, "shade", width=0.01, tone=0.8),
        Part((crown,), lift=1.1),
        Part((curve((-0.44, 0.03, -0.05), (0.44, 0.03)),), "trim", width=0.03, lift=0.2),
    ]


def _brim(rng: Rng) -> list[Part]:
    high, wide, flat = rng.uniform(0.48, 0.62), rng.uniform(0.72, 0.92), rng.uniform(0.13, 0.22)
    crown = mirrored(
        (0, -high + rng.uniform(0.0, 0.08), 0.06),
        (0.2, -high, 0.1),
        (0.36, -high + 0.12, 0.06),
        (0.44, 0.06, 0.06),
        (0, 0.12),
    )
    dip = rng.uniform(-0.1, 0.06)
    brim = mirrored(
        (0, -flat * 0.5, 0.02),
        (wide * 0.6, -flat * 0.3, -0.04),
        (wide, dip, 0.2),
        (wide * 0.94, dip + 0.06, 0.06),
        (0, flat + 0.12),
    )
    band = mirrored((0, -0.06, -0.02), (0.41, -0.1), (0.44, 0.06, 0.05), (0, 0.12))
    return [
        Part((brim,), lift=1.0),
        Part((crown,), lift=1.2),
        Part((band,), str(rng.choice(["lining", "accent", "trim"])), lift=0.4),
    ]


def _straw(rng: Rng) -> list[Part]:
    inner = rng.uniform(0.46, 0.56)
    tilt = rng.uniform(0.8, 1.0)
    rings = tuple(oval(0, 0, r, r * tilt) for r in (0.68, 0.78, 0.88))
    rise = -0.6 * (1 - tilt)
    return [
        Part((oval(0, 0, 1.0, tilt),), lift=1.2),
        Part(rings, "shade", width=0.012, tone=0.85),
        Part(
            (oval(0, 0, inner + 0.05, (inner + 0.05) * tilt),),
            str(rng.choice(["lining", "accent", "trim"])),
            lift=0.6,
        ),
        Part((oval(0, rise, inner, inner * tilt),), lift=1.2),
        Part((oval(0, rise, inner * 0.6, inner * 0.6 * tilt),), "shade", width=0.02, tone=0.85),
    ]
