"""audit.html: what the audit found, for a data-protection officer; one file, no script, nothing fetched."""

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.drawing import BLUE, GREY, VERMILLION, svg_of
from common.page_parts import figure, table
from server.page import epsilon, page, sigma, small
from simulation.audit.outcome import NO_PROOF, Audit, Check, worded
from simulation.audit.throwaway import Floats

_ENLARGED = 6  # times, without smoothing: what was recovered is shown as it is

_STYLE = """<style>
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem 1rem; max-width: 42rem; }
.pictures figure { margin: 0; }
.pictures img { width: 100%; max-width: 100%; image-rendering: pixelated; border: 1px solid var(--line); }
.headline { margin-top: 1.2rem; }
.held { color: #00684b; font-weight: 600; white-space: nowrap; }
.broken { color: #fff; background: var(--red); font-weight: 600; padding: 0 .35em;
  border-radius: 2px; white-space: nowrap; }
.passed { border: 2px solid #00684b; border-left-width: .6rem; padding: .8rem 1rem;
  margin: 1.2rem 0 0; break-inside: avoid; }
.checks tbody th { width: 32%; font-weight: 400; overflow-wrap: normal; }
.checks td:nth-child(2), .checks td:nth-child(3) { width: 28%; }
@media print { .pictures { max-width: 13cm; } .pictures img { max-height: none; } }
</style>"""

_TITLES = {
    "noise": (
        "Noise",
        "Two runs of the same round on phantom patients of whom the model is certain, so that they "
        "have no gradient: what a step releases is noise alone.",
    ),
    "sensitivity": (
        "Sensitivity",
        "One patient more or less in a draw, through the clipper that hospitals use: phantoms, all "
        "white, all black, a chessboard, infinite and NaN, with random and with crafted weights.",
    ),
    "sampling": (
        "Sampling",
        "Who is drawn, and for how much he counts, seen from outside in the steps of two cohorts.",
    ),
    "canaries": ("Canaries", ""),
    "inversion": ("Gradient inversion", ""),
}


def audit_page(audit: Audit) -> str:
    """The whole document."""
    privacy, training = audit.protocol.privacy, audit.protocol.training
    lead = (
        f"Does the code that would train this study keep its promise of epsilon {privacy.epsilon:g} at "
        f"delta {small(privacy.delta)} for every patient? A throwaway run on synthetic patients, with "
        f"noise multiplier {sigma(audit.sigma)}, sampling rate {training.sampling_rate:g}, "
        f"{audit.protocol.total_steps} steps and clipping norm {privacy.max_grad_norm:g}."
    )
    body = [_STYLE, _headline(audit)]
    for part, (title, words) in _TITLES.items():
        body.append(f"<h2>{title}</h2>")
        body.append(f"<p>{words}</p>" if words else "")
        if part == "canaries":
            body.append(_canaries(audit))
        body.append(_checks([check for check in audit.checks if check.part == part]))
        if part == "inversion":
            body.append(_inversion(audit))
    limits = _LIMITS.format(reach=audit.canaries.reach)
    body.append(f"<h2>What a pass means</h2><p>{NO_PROOF}</p>{limits}")
    return page(
        title=audit.protocol.study,
        kind="Audit of the privacy mechanism",
        lead=lead,
        warnings=_verdict(audit),
        body="".join(body),
        footer=(
            f"Study protocol {audit.protocol.digest[:16]}; {len(audit.checks)} checks in "
            f"{audit.seconds:.0f} s. No real patient, no ledger and no network took part."
        ),
    )


_LIMITS = """<ul>
<li>The audited mechanism is the training step: sampling, clipping, noise. Not audited here: the
ledger, the accountants, the released score histograms, what leaves in words.</li>
<li>The lower bound of epsilon is rigorous and weak: it has missed halved noise, and however bad the
mechanism, it could not have been above {reach:.2f} here. The Gaussian fit is sharper, and an estimate.</li>
<li>Canaries see the sum of all steps: noise used twice, or missing in one step of many, is found by
the tests of the noise and not by them.</li>
<li>The recovered images show one attack. A better one may see more in an update without privacy;
how well it can name patients behind the noise is bounded whatever it is.</li>
</ul>"""


def _verdict(audit: Audit) -> str:
    if audit.passed:
        return (
            f'<div class="passed"><strong>Held: all {len(audit.checks)} checks.</strong> '
            f"A pass is no proof: see the end of this page.</div>"
        )
    why = "Differential privacy was switched off for this audit (--no-dp). " if audit.dp_off else ""
    failed = "".join(f"<li>{escape(c.part)}: {escape(c.name)}</li>" for c in audit.failed)
    return (
        f'<div class="warning"><strong>FAILED: {len(audit.failed)} of {len(audit.checks)} checks.'
        f"</strong> {why}The mechanism that ran does not keep the protocol's promise; train no "
        f"patient with it.<ul>{failed}</ul></div>"
    )


def _headline(audit: Audit) -> str:
    found, canaries = audit.inversion, audit.canaries
    tiles = {
        "epsilon that the study claims": epsilon(audit.protocol.privacy.epsilon),
        f"epsilon estimated from canaries (not below {canaries.lower_bound:.2f}, with 95 % "
        "confidence)": worded(canaries.estimate),
        f"of updates traced to their patient among {found.candidates} (chance is "
        f"{1 / found.candidates:.0%})": f"{found.named_with_dp / found.trials:.0%}",
    }
    return (
        '<div class="tiles headline">'
        + "".join(
            f'<div class="tile"><div class="value">{value}</div><div class="label">{label}</div></div>'
            for label, value in tiles.items()
        )
        + "</div>"
    )


def _checks(checks: list[Check]) -> str:
    rows = [
        [
            escape(check.name),
            escape(check.found),
            escape(check.expected),
            '<span class="held">held</span>'
            if check.held
            else '<span class="broken">FAILED</span>',
        ]
        for check in checks
    ]
    return table(["test", "found", "expected", "verdict"], rows, "checks")


def _canaries(audit: Audit) -> str:
    found = audit.canaries
    return (
        f"<p>{len(found.scores):,} canaries, each included by the toss of a coin, were drawn, clipped, "
        f"summed and noised like patients over the whole study; then the released sum was asked who "
        f"was there. Of {found.guesses:,} guesses {found.right:,} were right.</p>"
        + figure(
            _scores_svg(found.scores, found.included),
            "Histograms of the scores of included and of left out canaries",
            "The nearer the two curves, the less the release says about who took part. "
            f"The claim is epsilon {epsilon(audit.protocol.privacy.epsilon)}.",
        )
    )


def _scores_svg(scores: Floats, included: NDArray[np.bool_]) -> str:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    bins = np.histogram_bin_edges(scores, 40).tolist()
    kinds = ((~included, GREY, "--", "left out"), (included, VERMILLION, "-", "included"))
    for who, colour, line, label in kinds:
        axes.hist(
            scores[who],
            bins,
            histtype="step",
            color=colour,
            linestyle=line,
            linewidth=1.4,
            label=label,
        )
    axes.axvline(0, color=BLUE, linewidth=0.6)
    axes.set_xlabel("a canary's trace in the sum of all steps, in units of the clipping norm")
    axes.set_ylabel("canaries")
    axes.legend(frameon=False, fontsize=8.5)
    return svg_of(drawn)


def _inversion(audit: Audit) -> str:
    found = audit.inversion
    with_dp = "as audited, privacy OFF" if audit.dp_off else "recovered, privacy as audited"
    cells = []
    for number, shown in enumerate(found.pictures, start=1):
        cells += [
            _picture(shown.original, f"phantom patient {number}"),
            _picture(
                shown.without_dp, f"recovered without privacy: likeness {shown.ssim_without_dp:.2f}"
            ),
            _picture(shown.with_dp, f"{with_dp}: likeness {shown.ssim_with_dp:.2f}"),
        ]
    return (
        "<p>Each image was searched for so that its gradient points where the update points. This is "
        "the attacker's best case, not a round of this study: one patient, one image, one step, the "
        "label known, and a start model made so that the attack works well.</p>"
        f'<div class="pictures">{"".join(cells)}</div>'
    )


def _picture(image: Floats, caption: str) -> str:
    grey = Image.fromarray(np.round(image * 255).astype(np.uint8))
    size = (grey.width * _ENLARGED, grey.height * _ENLARGED)
    buffer = io.BytesIO()
    grey.resize(size, Image.Resampling.NEAREST).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
