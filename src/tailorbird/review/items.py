"""Items to decide about: a photo with a suspect label, or photos that show the same picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tailorbird.dataset import SPLITS, Dataset, Sample
from tailorbird.dataset.duplicates.groups import group_findings, same_pictures
from tailorbird.dataset.samples import DECIDABLE
from tailorbird.label_errors import Suspect, Unlike

KINDS: Final = ("unsure", *DECIDABLE)
"""What a person can decide about, in the order in which it is shown: guesses, then findings."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question to a person.

    kinds: some of KINDS, the most serious first.
    photos: indices of its samples.
    message: what was found.
    keep: photos that the proposed answer keeps; it excludes the others. Empty without a proposal,
        and for a suspect label, whose proposed answer is the suggested label.
    proposal: the proposed answer in words.
    reason: the reason for it, and what `train` does without a decision.
    """

    kinds: tuple[str, ...]
    photos: tuple[int, ...]
    message: str
    keep: tuple[int, ...] = ()
    proposal: str = ""
    reason: str = ""


def make_items(
    dataset: Dataset,
    reported: Sequence[Suspect],
    judged: Mapping[Sample, Suspect],
    unsure: Sequence[Suspect] = (),
    unlike: Sequence[Unlike] = (),
) -> list[Item]:
    """Return every item: unsure guesses, suspect labels, photos unlike all others, then groups.

    reported: the suspects in their order. unlike: photos that look like none of the others, in
        their order. unsure: photos whose label is a guess about which the
        model was not sure, in their order.
    judged: every photo whose label was judged. Of photos with conflicting labels, the one with the
        most probable label is proposed to be kept.
    """
    index = {sample: i for i, sample in enumerate(dataset.samples)}
    items = [
        Item(
            ("unsure",),
            (index[guess.sample],),
            f"not sure: {guess.label} ({guess.label_probability:.1%}) or {guess.suggested} "
            f"({guess.suggested_probability:.1%})",
            proposal=f"Keep {guess.label}",
        )
        for guess in unsure
    ]
    items += [
        Item(
            ("suspect-label",),
            (index[suspect.sample],),
            suspect.finding().message,
            proposal=f"Relabel as {suspect.suggested}",
        )
        for suspect in reported
    ]
    items += [
        Item(("unfamiliar",), (index[one.sample],), one.message(), reason=_UNLIKE) for one in unlike
    ]
    groups = []
    for group in same_pictures(dataset.pictures):
        samples = [dataset.samples[i] for i in group]
        findings = group_findings(samples)
        kinds = tuple(finding.kind for finding in findings)
        keep, proposal, reason = _PROPOSE[kinds[0]](samples, judged)
        message = "; ".join(finding.message for finding in findings)
        groups.append(
            Item(kinds, tuple(group), message, tuple(group[k] for k in keep), proposal, reason)
        )
    return items + sorted(groups, key=lambda item: KINDS.index(item.kinds[0]))


_UNLIKE: Final = (
    "A photo of something else teaches the model that such things are of this class. Exclude it or "
    "give it its class; keep it if it is only an unusual one."
)

_Proposal = tuple[Sequence[int], str, str]
"""Positions in the group to keep, the answer in words, the reason."""


def _of_conflict(samples: Sequence[Sample], judged: Mapping[Sample, Suspect]) -> _Proposal:
    reason = (
        "Identical photos with two labels contradict each other: tailorbird train leaves all of "
        "them out until one label is chosen."
    )
    if len({sample.digest for sample in samples}) > 1:
        reason = "Nearly identical photos with two labels contradict each other."
    if not all(sample in judged for sample in samples):
        return (), "", reason
    best = max(range(len(samples)), key=lambda i: judged[samples[i]].label_probability)
    label = samples[best].label
    return (
        (best,),
        f"Keep the one labelled {label}",
        f"{reason} Of the labels, {label} is the most probable.",
    )


def _of_leak(samples: Sequence[Sample], _: Mapping[Sample, Suspect]) -> _Proposal:
    held = max(SPLITS.index(sample.split or "train") for sample in samples)
    keep = [i for i, sample in enumerate(samples) if sample.split == SPLITS[held]]
    others = Counter(sample.split or "train" for sample in samples if sample.split != SPLITS[held])
    copies = " and ".join(
        f"the {'training' if name == 'train' else name} {'copy' if n == 1 else 'copies'}"
        for name, n in others.items()
    )
    reason = (
        f"A photo that the model was trained on makes the {SPLITS[held]} score too good. "
        f"tailorbird train leaves out {copies} anyway; excluding records that in the manifest."
    )
    return keep, f"Exclude {copies}", reason


def _of_duplicate(samples: Sequence[Sample], _: Mapping[Sample, Suspect]) -> _Proposal:
    rest = "the other" if len(samples) == 2 else f"the other {len(samples) - 1:,}"
    return (
        (0,),
        f"Keep the first, exclude {rest}",
        "tailorbird train uses one of several identical photos and leaves out the others anyway.",
    )


def _of_near_duplicate(samples: Sequence[Sample], _: Mapping[Sample, Suspect]) -> _Proposal:
    both = "both" if len(samples) == 2 else f"all {len(samples):,}"
    reason = (
        "They do no harm: copies stay together when tailorbird train makes the splits. Many of "
        "them give one object too much weight."
    )
    return range(len(samples)), f"Keep {both}", reason


_PROPOSE: Final = {
    "conflicting-label": _of_conflict,
    "leak": _of_leak,
    "duplicate": _of_duplicate,
    "near-duplicate": _of_near_duplicate,
}
