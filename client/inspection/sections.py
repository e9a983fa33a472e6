"""The data report's sections, each as ready HTML: what was found, in figures and pictures."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

from client.data import SetAside
from client.data.survey import SCANNER
from client.inspection import pictures
from client.inspection.counts import STEPS, Count
from client.inspection.duplicates import Alike
from client.inspection.inspection import Inspection
from client.inspection.limits import CHANCE, LIMITS, LINKED
from client.inspection.shortcuts import Shortcut
from common.page_parts import absent, figure, table
from common.tasks.nodule_classification.study import NoduleStudy

MOST_ALIKE = 12  # groups that are shown, the grave ones first
MOST_KINDS = 30  # of a fact; an archive of years has more kernels than a reader wants
MOST_NAMED = 5  # files and findings of each reason
MOST_PATIENTS = 5  # those with the most images

LocalId = Callable[[str], str]


def sections(found: Inspection, protocol: NoduleStudy, local_id: LocalId) -> list[tuple[str, str]]:
    """(title, HTML) in order. Patients are called as `local_id` says, images by their row."""
    classes = protocol.images.classes
    return [
        ("How many", _counts(found, classes, local_id)),
        ("How the images were made", _facts(found, classes)),
        ("Grey levels", _grey(found, protocol)),
        ("The same twice", _twice(found, classes, local_id)),
        ("Images that show nothing", _empty(found, local_id)),
        ("Like lung CT, and as the protocol states", _drift(found, protocol)),
        ("Some of the images", _montage(found, classes)),
        ("Set aside", set_aside(found.set_aside)),
        ("How this was judged", _limits()),
    ]


def _counts(found: Inspection, classes: tuple[str, str], local_id: LocalId) -> str:
    rows = [
        [
            escape(count.kind),
            *(f"{n:,}" for n in (count.different, *count.patients, *count.images)),
        ]
        for count in found.sides
    ]
    negative, positive = map(escape, classes)
    head = ("", "patients", *(f"… with {name}" for name in (negative, positive)))
    whole = table((*head, f"images of {negative}", f"… of {positive}"), rows, "numbers counts")
    counts = sorted(found.images_of_patient.items(), key=lambda item: -item[1])
    most = ", ".join(
        f"<code>{local_id(patient)}</code> ({count})" for patient, count in counts[:MOST_PATIENTS]
    )
    usual = np.median([count for _, count in counts])
    return (
        f"{whole}<p>A patient may have images of both classes. Usual is {usual:g} images of a patient; "
        f"the most: {most}.</p>"
    )


def _facts(found: Inspection, classes: tuple[str, str]) -> str:
    parts = [
        f"<section><h3>{escape(fact[0].upper() + fact[1:])}</h3>{_fact(counts, classes)}"
        f'<p class="caption">{_link(link, len(counts))}{_steps(fact)}</p></section>'
        for fact, (counts, link) in found.facts.items()
    ]
    known = "" if SCANNER in found.facts else " Image files do not say how the scanner made them."
    return (
        "<p>A bar is the number of images. Where one source has images of one class only, a model can "
        f"tell the class by it without seeing any disease.{known}</p>"
        f'<div class="facts">{"".join(parts)}</div>'
    )


def _fact(counts: list[Count], classes: tuple[str, str]) -> str:
    most = max(max(count.images) for count in counts)
    shown = sorted(sorted(counts, key=lambda c: -sum(c.images))[:MOST_KINDS], key=counts.index)
    rows = [
        [
            escape(count.kind),
            f"{count.different:,}",
            *(_bar(n, most, kind) for n, kind in zip(count.images, ("neg", "pos"), strict=True)),
        ]
        for count in shown
    ]
    if more := len(counts) - len(shown):
        rows.append([f"{more} more, with fewer images", "", "", ""])
    return table(("", "patients", *(escape(name) for name in classes)), rows, "bars")


def _bar(count: int, most: int, kind: str) -> str:
    if not count:
        return "none"
    return f'<span class="bar {kind}" style="width: {4 * count / most:.2f}rem"></span> {count:,}'


def _link(link: Shortcut | None, kinds: int) -> str:
    if link is None:
        return f"One {'kind' if kinds == 1 else 'class'} only: it says nothing of the class."
    said = f"Link with the class, by patients: Cramér's V {link.strength:.2f}, p {_p(link.p)}."
    if link.p < CHANCE.value and link.strength >= LINKED.value:
        return f"<strong>{said} A model may learn this in place of the disease.</strong>"
    return said


def _steps(fact: str) -> str:
    return f" Counted in steps of {STEPS[fact]:g}." if fact in STEPS else ""


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= CHANCE.value else f"below {CHANCE.value:g}"


def _grey(found: Inspection, protocol: NoduleStudy) -> str:
    unit = "Hounsfield units" if pictures.window_of(found, protocol.images) else "grey"
    return figure(
        pictures.histogram(found, protocol.images),
        f"Histogram of {unit} of each class",
        f"All pixels of each class by {unit}. At both ends lies what is beyond the window.",
    )


def _twice(found: Inspection, classes: tuple[str, str], local_id: LocalId) -> str:
    leaks, parts = found.leaks, []
    people = (
        ("Patients on both sides of the split", [(one,) for one in leaks.both_sides]),
        ("Patient ids that share a series or study", leaks.one_study),
        ("Patient ids that differ only in case, leading zeros or separators", leaks.alike),
    )
    for title, groups in people:
        if groups:
            named = "; ".join(
                " and ".join(f"<code>{local_id(one)}</code>" for one in ids) for ids in groups[:12]
            )
            parts.append(f"<p><strong>{title}: {len(groups)}.</strong> {named}</p>")
    if not found.alike:
        parts.append(
            "<p>No image is there twice, none is nearly another, and no place has two labels.</p>"
        )
        return "".join(parts)
    parts.append(table(_ALIKE_HEAD, list(_tally(found.alike)), "numbers"))
    grave = sorted(found.alike, key=lambda one: (-one.patients, not one.both_labels))
    parts += [_alike(found, one, classes, local_id) for one in grave[:MOST_ALIKE]]
    if (more := len(grave) - MOST_ALIKE) and more > 0:
        parts.append(f"<p>And {more} more groups.</p>")
    return "".join(parts)


_ALIKE_HEAD = ("", "groups", "of several patients", "on both sides", "with two labels")


def _tally(groups: list[Alike]) -> Iterable[list[str]]:
    for kind in ("same pixels", "nearly the same pixels", "nearly the same place"):
        own = [one for one in groups if one.kind == kind]
        yield [
            kind,
            *(
                str(count)
                for count in (
                    len(own),
                    sum(one.patients > 1 for one in own),
                    sum(one.both_sides for one in own),
                    sum(one.both_labels for one in own),
                )
            ),
        ]


def _alike(found: Inspection, one: Alike, classes: tuple[str, str], local_id: LocalId) -> str:
    shown = one.images[:4]
    names = "; ".join(_named(found, n, classes, local_id) for n in shown)
    more = f"; and {len(one.images) - len(shown)} more" if len(one.images) > len(shown) else ""
    picture = pictures.patches(found.survey, shown, f"{len(shown)} images with the {one.kind}")
    said = f"{one.kind.capitalize()}: {names}{more}."
    return f"<figure>{picture}<figcaption>{said}</figcaption></figure>"


def _named(found: Inspection, image: int, classes: tuple[str, str], local_id: LocalId) -> str:
    survey = found.survey
    side = "validation" if survey.validation[image] else "training"
    row = survey.rows[image]
    where = f", {escape(row)}" if row else ""
    patient = local_id(survey.patient_ids[image])
    return f"<code>{patient}</code> {escape(classes[survey.labels[image]])} ({side}{where})"


def _empty(found: Inspection, local_id: LocalId) -> str:
    images = [*found.constant, *found.clipped]
    if not images:
        return "<p>None: no image is constant, and none quite black or quite white.</p>"
    survey = found.survey
    shown = images[: pictures.MONTAGE]
    of = sorted({local_id(survey.patient_ids[n]) for n in shown})
    picture = pictures.patches(survey, shown, f"{len(shown)} images that show nothing")
    return (
        f"<p>{len(found.constant)} constant, {len(found.clipped)} quite black or quite white.</p>"
        f"<figure>{picture}<figcaption>The first {len(shown)}, of patients "
        f"{', '.join(f'<code>{one}</code>' for one in of)}.</figcaption></figure>"
    )


def _drift(found: Inspection, protocol: NoduleStudy) -> str:
    rows = [
        [one.feature, f"{one.here:.3f}", f"{one.phantom:.3f}", f"{one.distance:.2f}", _p(one.p)]
        for one in found.phantom.drifts
    ]
    head = ("", "median here", "on phantoms", "KS distance", "p")
    told = found.phantom.auroc
    together = (
        absent("too few patients to say")
        if told is None
        else f"an AUROC of {told:.2f}, where 0.5 is a guess"
    )
    picture = figure(
        pictures.distributions(found),
        "Cumulative distributions of mean, spread and sharpness, here and on phantoms",
        "Mean and standard deviation of an image's grey (0..1), and sharpness: the mean step between "
        "neighbouring pixels. Phantoms are synthetic lung CT, on which initial models are trained.",
    )
    return (
        f"{picture}{table(head, rows, 'numbers')}"
        f"<p>A logistic regression on the three, tried on patients that it was not fitted to, tells "
        f"images and phantoms apart with: {together}. A difference is no fault: it says how "
        f"much a model has to learn here.</p>{_inclusion(found, protocol)}"
    )


def _inclusion(found: Inspection, protocol: NoduleStudy) -> str:
    if protocol.inclusion is None:
        return "<h3>Inclusion</h3><p>The protocol states none.</p>"
    rows = [
        [escape(one.stated), f"{one.images:,}", f"{one.patients:,}", f"{one.unknown:,}"]
        for one in found.outside
    ]
    head = ("the protocol states", "images outside", "of patients", "images that do not say")
    patients = (
        ""
        if found.least_patients is None
        else f"<p>At least {found.least_patients} training patients: there are "
        f"{len(found.survey.cohort.training)}.</p>"
    )
    return (
        f"<h3>Inclusion</h3>{table(head, rows, 'numbers') if rows else ''}{patients}"
        f"<p>It is advice: who is outside takes part all the same.</p>"
    )


def _montage(found: Inspection, classes: tuple[str, str]) -> str:
    parts = []
    for label, name in enumerate(classes):
        if images := pictures.chosen(found.survey, label):
            picture = pictures.patches(found.survey, images, f"Random images of {name}")
            parts.append(
                f"<figure>{picture}<figcaption>{len(images)} of {escape(name)}, chosen at random "
                f"(the same at every look).</figcaption></figure>"
            )
    return f"<p>These are images of your patients.</p>{''.join(parts)}"


def set_aside(apart: Sequence[SetAside]) -> str:
    """By reason, with the first names as they are in the folder, which may name a patient."""
    if not apart:
        return "<p>Nothing: every file and finding is used.</p>"
    names: defaultdict[str, list[str]] = defaultdict(list)
    for one in apart:
        names[one.reason].append(one.what)
    rows = [
        [
            escape(reason),
            f"{len(of):,}",
            ", ".join(f"<code>{escape(name)}</code>" for name in of[:MOST_NAMED])
            + (", …" if len(of) > MOST_NAMED else ""),
        ]
        for reason, of in sorted(names.items(), key=lambda item: -len(item[1]))
    ]
    return (
        f"<p>{len(apart):,} files and findings are not used. Here, and only here, files are called by "
        f"their names, which may be a patient's.</p>"
        f"{table(('because', 'how many', 'the first'), rows, 'aside')}"
    )


def _limits() -> str:
    rows = [[f"{limit.value:g}", escape(limit.what), escape(limit.why)] for limit in LIMITS]
    return (
        "<p>Unfit is what makes the guarantee or the judgement untrue; what only makes a model worse is a "
        "warning. “Real” are 6,581 patches of LUNA16 from four makers' scanners.</p>"
        + table(("limit", "of what", "why"), rows, "limits")
    )
