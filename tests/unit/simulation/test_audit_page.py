"""The audit's page and its JSON: complete, escaped, self-contained, and loud when something failed."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from common.protocol import StudyProtocol
from simulation.audit.outcome import (
    Audit,
    CanaryResult,
    Check,
    InversionResult,
    Recovered,
    worded,
)
from simulation.audit.page import audit_page


@pytest.fixture
def passed(small_study: Callable[..., StudyProtocol]) -> Audit:
    included = np.arange(200) % 2 == 0
    image = np.linspace(0, 1, 256).reshape(16, 16)
    parts = ("noise", "sensitivity", "sampling", "canaries", "inversion")
    return Audit(
        protocol=small_study(),
        sigma=1.234,
        dp_off=False,
        checks=tuple(Check(p, f"{p} <of> it", "1 & 2", "3", held=True) for p in parts),
        canaries=CanaryResult(np.linspace(-3, 3, 200), included, 20, 15, 0.5, 6.0, 1.0, 4.37, 3.1),
        inversion=InversionResult(
            (Recovered(image, image, 1 - image, 0.91, 0.05),), 20, 200, 200, 12, 0.12
        ),
        seconds=12.3,
    )


def test_a_pass_is_worded_as_no_proof(passed: Audit) -> None:
    html = audit_page(passed)
    assert "all 5 checks" in html
    assert "A pass is no proof" in html
    assert "FAILED" not in html
    assert all(f"{c.part} &lt;of&gt; it" in html for c in passed.checks)
    assert "likeness 0.91" in html
    assert html.count("data:image/png;base64,") == 3


def test_one_failed_check_fails_the_audit_and_is_named_at_the_top(passed: Audit) -> None:
    broken = replace(passed.checks[2], held=False)
    audit = replace(passed, dp_off=True, checks=(*passed.checks[:2], broken, *passed.checks[3:]))
    assert not audit.passed
    html = audit_page(audit)
    top = html[: html.index("<h2>")]
    assert "FAILED: 1 of 5 checks" in top
    assert "--no-dp" in top
    assert "sampling &lt;of&gt; it" in top
    assert "Held" not in html
    assert "privacy OFF" in html


def test_the_page_fetches_nothing_and_runs_nothing(passed: Audit) -> None:
    html = audit_page(passed)
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")  # the policy that lets nothing in
    assert "default-src 'none'" in html
    assert "src=" in html
    assert html.count("src=") == html.count('src="data:image/')


def test_json_has_no_number_that_json_lacks(passed: Audit) -> None:
    wild = replace(passed.canaries, mu=math.inf, estimate=math.inf, estimate_low=math.nan)
    facts = replace(passed, canaries=wild).as_json()
    found = json.loads(json.dumps(facts, allow_nan=False))
    assert found["canaries"]["gaussian_fit_epsilon_estimate"] is None
    assert found["claim"]["epsilon"] == 8.0
    assert found["claim"]["steps"] == 6
    assert len(found["checks"]) == 5
    assert "no proof" in found["note"]


def test_an_estimate_beyond_all_meaning_is_worded() -> None:
    assert [worded(e) for e in (7.256, 50.0, 50.1, math.inf)] == [
        "7.26", "50.00", "above 50", "above 50",
    ]  # fmt: skip
