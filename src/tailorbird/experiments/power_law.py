"""Fit error against training photos by a power law; extrapolate only if a back-test passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXPONENTS = np.linspace(0.05, 2.0, 79)
"""Exponents tried. Hestness et al. 2017 see 0.07 to 0.35 for networks trained from scratch; on
pretrained features the error falls faster."""

RESAMPLES = 1000
FEWEST_SIZES = 5


@dataclass(frozen=True)
class PowerLaw:
    """error(n) = scale * n ** -exponent + floor, with scale and floor at least 0.

    The form is that of Cortes et al. 1993 ("Learning curves: asymptotic values and rate of
    convergence") and Hestness et al. 2017 ("Deep learning scaling is predictable, empirically").
    """

    scale: float
    exponent: float
    floor: float

    def error(self, photos: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expected error, 0 to 1, with so many training photos."""
        return np.asarray(
            self.scale * np.asarray(photos, np.float64) ** -self.exponent + self.floor
        )


@dataclass(frozen=True)
class Extrapolation:
    """What twice the photos would give.

    Attributes:
        law: the fit; None if there are too few sizes.
        gain: of accuracy, 0 to 1. interval: its 95% interval. Both None if refused.
        backtest: gain of the last doubling as predicted from the sizes before it, and as measured;
            None if there are too few sizes.
        refused: why the law should not be extrapolated, else None.
    """

    law: PowerLaw | None
    gain: float | None
    interval: tuple[float, float] | None
    backtest: tuple[float, float] | None
    refused: str | None


def fit_power_laws(
    sizes: NDArray[np.float64], errors: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit B curves by weighted least squares; return scale, exponent and floor (B, 3).

    For a given exponent the best scale and floor have a closed form, also with one of them fixed at
    zero. So all exponents are tried, and the result depends on no starting point.

    Args:
        sizes: (S,).
        errors: (B, S).
        weights: (S,).
    """
    best = np.full(len(errors), np.inf)
    found = np.zeros((len(errors), 3))
    total = weights.sum()
    for exponent in EXPONENTS:
        x = (sizes / sizes[-1]) ** -exponent
        wx, wxx = weights @ x, weights @ (x * x)
        wy, wxy = errors @ weights, errors @ (weights * x)
        determinant = total * wxx - wx * wx
        scale, floor = (total * wxy - wx * wy) / determinant, (wxx * wy - wx * wxy) / determinant
        flat = scale < 0
        scale, floor = np.where(flat, 0, scale), np.where(flat, wy / total, floor)
        sunk = floor < 0
        scale, floor = np.where(sunk, wxy / wxx, scale), np.where(sunk, 0, floor)
        misses = ((errors - scale[:, None] * x - floor[:, None]) ** 2) @ weights
        better = misses < best
        best = np.where(better, misses, best)
        rows = np.stack(
            [scale * sizes[-1] ** exponent, np.full_like(scale, exponent), floor], axis=1
        )
        found[better] = rows[better]
    return found


def extrapolate(
    sizes: NDArray[np.float64], errors: NDArray[np.float64], *, ratio: float, seed: int
) -> tuple[Extrapolation, NDArray[np.float64]]:
    """Return what twice the largest size would give, and the power laws of the bootstrap (B, 3).

    The interval comes from a bootstrap over runs, widened about the estimate by
    sqrt(1 + J * ratio), the factor of Nadeau and Bengio 2003: the runs share photos, so a mean of J
    of them is less certain than of J independent ones.

    Args:
        sizes: (S,), rising, each about sqrt(2) times the one before.
        errors: (J, S), one row per run.
        ratio: photos held out over photos that train.
        seed: of the bootstrap.
    """
    runs = len(errors)
    if len(sizes) < FEWEST_SIZES or runs < 2:
        why = (
            f"{len(sizes)} sizes and {runs} runs are too few to fit a curve; at least "
            f"{FEWEST_SIZES} and 2 are needed"
        )
        return Extrapolation(None, None, None, None, why), np.zeros((0, 3))
    mean = errors.mean(axis=0)
    spread = errors.std(axis=0, ddof=1)
    weights = 1 / np.maximum(spread, 0.002) ** 2
    law = PowerLaw(*map(float, fit_power_laws(sizes, mean[None], weights)[0]))
    widened = float(np.sqrt(1 + runs * ratio))
    picked = np.random.default_rng((seed, 2)).integers(runs, size=(RESAMPLES, runs))
    laws = fit_power_laws(sizes, errors[picked].mean(axis=1), weights)
    gain, low, high = _gain(law, laws, sizes[-1], widened)
    standard_error = spread / np.sqrt(runs) * widened
    backtest = _backtest(sizes, mean, weights)
    refused = _refusal(law, sizes, mean, standard_error, backtest, (low, high))
    if refused:
        return Extrapolation(law, None, None, backtest, refused), laws
    return Extrapolation(law, gain, (low, high), backtest, None), laws


def _gain(
    law: PowerLaw, laws: NDArray[np.float64], size: float, widened: float
) -> tuple[float, float, float]:
    gain = float(law.error(size) - law.error(2 * size))
    gains = laws[:, 0] * (size ** -laws[:, 1] - (2 * size) ** -laws[:, 1])
    low, high = (float(value) for value in np.quantile(gains, (0.025, 0.975)))
    return gain, gain - widened * max(0.0, gain - low), gain + widened * max(0.0, high - gain)


def _backtest(
    sizes: NDArray[np.float64], mean: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return the gain of the last doubling, predicted from the sizes before it and as measured."""
    known = sizes <= 0.51 * sizes[-1]
    if known.sum() < FEWEST_SIZES - 1:
        return None
    earlier = PowerLaw(
        *map(float, fit_power_laws(sizes[known], mean[None, known], weights[known])[0])
    )
    half = sizes[known][-1]
    return float(earlier.error(half) - earlier.error(sizes[-1])), float(mean[known][-1] - mean[-1])


def _refusal(
    law: PowerLaw,
    sizes: NDArray[np.float64],
    mean: NDArray[np.float64],
    standard_error: NDArray[np.float64],
    backtest: tuple[float, float] | None,
    interval: tuple[float, float],
) -> str | None:
    """Return why the curve should not be extrapolated, or None."""
    misses = np.abs(mean - law.error(sizes))
    worst = int(np.argmax(misses - 2 * standard_error))
    if misses[worst] > max(0.01, 2 * standard_error[worst]):
        return (
            f"a power law does not fit: at {sizes[worst]:,.0f} photos it is off by "
            f"{100 * misses[worst]:.1f} points, more than chance explains "
            f"({200 * standard_error[worst]:.1f})"
        )
    if mean[-1] - mean[0] > 2 * float(np.hypot(standard_error[0], standard_error[-1])):
        return "the error rises with more photos, which no power law does: check the labels"
    if backtest is not None:
        noise = 2 * float(np.hypot(standard_error[-1], standard_error[len(sizes) // 2]))
        miss = abs(backtest[0] - backtest[1])
        if miss > max(0.01, noise):
            return (
                f"from half the photos it would have predicted {100 * backtest[0]:+.1f} points for "
                f"the last doubling; it gave {100 * backtest[1]:+.1f}"
            )
    if interval[1] - interval[0] > 0.1:
        return (
            f"the runs differ too much: anything from {100 * interval[0]:+.1f} to "
            f"{100 * interval[1]:+.1f} points fits"
        )
    return None
