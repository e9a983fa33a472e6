"""Losses of survival models: (outputs, labels) -> (N,) float32, one for each patient.

Labels (N, 2) float32 are time (0 or more, in the study's unit) and event (1, or 0 where the patient
was last seen without it). The sum of the losses is a negative log-likelihood, full or partial.

Edges (K,) are the public ends of the study's intervals, rising, the first interval from 0: interval
k is (edge k-1, edge k]. What happens after the last edge counts as not seen: whoever is there is
censored at the last edge.

The partial likelihoods of Cox mix patients: each one's gradient holds the scores of all who were at
risk, so adding a patient changes the terms of up to all the others, clipping a term bounds nobody's
influence, and `mechanism = "none"` is the only one that has them. The other two losses are sums with
one term for each patient that depends on that patient and on the model alone. The clipped sum of
their gradients therefore has L2 sensitivity C under adding or removing a patient, as in any DP-SGD
(Abadi et al. 2016, section 3.1). Nguyen and Hui (2017, arXiv:1708.07436) leave Cox for discrete time
on the same ground.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cox_breslow(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cox's partial likelihood with Breslow's ties (Breslow 1974, Biometrics 30:89).

    `outputs` (N, 1) are log hazard ratios. The risk sets are those of the batch: of one hospital in a
    federation, which makes it Cox's model stratified by hospital. A censored patient's loss is 0.
    """
    return _partial_likelihood(outputs, labels, efron=False)


def cox_efron(outputs: Tensor, labels: Tensor) -> Tensor:
    """As `cox_breslow`, with Efron's ties (Efron 1977, JASA 72:557), nearer to the exact ones.

    The l-th of d events at one time (l from 0) leaves l/d of these d patients out of its risk set;
    who of them is the l-th does not matter to the sum.
    """
    return _partial_likelihood(outputs, labels, efron=True)


def _partial_likelihood(outputs: Tensor, labels: Tensor, *, efron: bool) -> Tensor:
    order = torch.argsort(labels[:, 0], descending=True, stable=True)
    score, event = outputs[order, 0], labels[order, 1]
    _, group, sizes = torch.unique_consecutive(
        labels[order, 0], return_inverse=True, return_counts=True
    )
    last = sizes.cumsum(0) - 1
    # The risk set of a time are all whose time is not below it: in this order, all up to its last.
    log_risk = torch.logcumsumexp(score, 0)[last][group]
    if efron:
        zeros = event.new_zeros(len(sizes))
        events = zeros.index_add(0, group, event)
        share = zeros.index_add(0, group, event * (score - log_risk).exp())
        before = F.pad(event.cumsum(0), (1, 0))[last + 1] - events
        left_out = (event.cumsum(0) - 1 - before[group]) / events[group].clamp(min=1)
        log_risk = log_risk + torch.log1p(-left_out.clamp(min=0) * share[group])
    losses = torch.empty_like(score)
    losses[order] = torch.where(event > 0, log_risk - score, torch.zeros_like(score))
    return losses


def proportional_hazards(outputs: Tensor, labels: Tensor, edges: Tensor) -> Tensor:
    """Piecewise-exponential survival as Poisson regression, one term for each patient.

    `outputs` (N, K) are logs of the cumulative hazard of a whole interval: with o = a_k + b x the
    hazard is constant within an interval and proportional between patients. With e_k the share of
    interval k that the patient was seen in (0..1) and d_k = 1 where the event was, the loss is

        sum over k of  e_k exp(o_k) - d_k o_k

    which is Poisson's for the count d_k with the offset log e_k (Holford 1980, Biometrics 36:299;
    Laird and Olivier 1981, JASA 76:231), and up to a constant the negative log-likelihood of the
    time. Where every time is an edge, its maximum over the a_k is Breslow's partial likelihood, so b
    is that of Cox's model (Whitehead 1980, Applied Statistics 29:268); between edges it differs only
    in taking a patient for partly at risk in the interval that ended the observation.
    """
    seen, event = _seen(labels, edges), _event(labels, edges)
    return (seen * outputs.exp() - event * outputs).sum(1)


def discrete_time(outputs: Tensor, labels: Tensor, edges: Tensor) -> Tensor:
    """Logistic regression of the event in an interval on being at its begin without it.

    `outputs` (N, K) are log odds of the hazard of each interval (Brown 1975, Biometrics 31:863). The
    loss of a patient is the sum of the cross-entropies of the intervals: survived before the event,
    not survived where it was, nothing after it. Who was censored within an interval has survived it
    if seen for at least half of it, else it is not counted (Gensheimer and Narasimhan 2019, PeerJ
    7:e6257).
    """
    event = _event(labels, edges)
    survived = (_seen(labels, edges) >= 0.5) & (event == 0)
    return (survived * F.softplus(outputs) + event * F.softplus(-outputs)).sum(1)


def _seen(labels: Tensor, edges: Tensor) -> Tensor:
    """The share of each interval that a patient was seen in, (N, K), 0..1."""
    edges = edges.to(labels)
    begin = F.pad(edges[:-1], (1, 0))
    return ((labels[:, :1] - begin) / (edges - begin)).clamp(0, 1)


def _event(labels: Tensor, edges: Tensor) -> Tensor:
    """1 in the interval of a patient's event, (N, K); all 0 where there was none up to the last edge."""
    number = torch.searchsorted(
        edges.to(labels), labels[:, 0].contiguous()
    )  # interval k includes edge k
    here = number[:, None] == torch.arange(len(edges), device=labels.device)
    return here * labels[:, 1:]
