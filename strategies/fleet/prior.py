"""What the other nodes suggest about a node that was not seen yet, or not lately (empirical Bayes).

Names used here: N = known nodes. Everything is in the log domain, since links differ by factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.quantiles import median

Floats = NDArray[np.float64]

HALF_LIFE = 50.0  # rounds after which what was seen of a node counts half
PESSIMISM = 1.0  # standard deviations: five links in six are better than their pessimistic estimate
DOUBT = 4  # the starting guess weighs as much as this many observed nodes
WIDEST = 2.5  # deviations from the median; a node further off tells nothing more about the others
MAD = 1.4826  # deviations of a normal distribution in one median absolute deviation


@dataclass(frozen=True, slots=True)
class Spread:
    """Distribution of one logarithmic quantity over the nodes: its mean and standard deviation between nodes."""

    mean: float
    deviation: float

    def learn(self, logs: Floats) -> Spread:
        """Posterior after the values of the nodes seen so far; the guess itself counts as ``DOUBT`` nodes.

        Values are cut at ``WIDEST`` robust deviations: a few nodes that claim absurd links must not decide what is
        believed of those not seen yet.
        """
        if not logs.size:
            return self
        known = np.concatenate((logs, np.full(DOUBT, self.mean)))
        middle = median(known)
        reach = WIDEST * max(self.deviation, MAD * median(np.abs(known - middle)))
        logs = np.clip(logs, middle - reach, middle + reach)
        share = logs.size / (logs.size + DOUBT)
        mean = share * float(logs.mean()) + (1 - share) * self.mean
        variance = share * float(((logs - mean) ** 2).mean()) + (1 - share) * self.deviation**2
        return Spread(mean, math.sqrt(variance))


def believe(prior: Spread, own_N: Floats, noise_N: Floats, samples_N: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every node's true value.

    A node with n effective samples of deviation ``s`` around a truth that varies by ``d`` between nodes is believed
    at ``w * own + (1 - w) * prior`` with ``w = n / (n + s^2 / d^2)`` (normal-normal shrinkage); the remaining
    variance is ``s^2 + (1 - w) d^2``, because the next sample is noisy even over a known link.
    """
    between = max(prior.deviation, 1e-3) ** 2
    weight_N = samples_N / (samples_N + noise_N**2 / between + 1e-12)
    mean_N = weight_N * own_N + (1 - weight_N) * prior.mean
    return mean_N, np.sqrt(noise_N**2 * (samples_N > 0) + (1 - weight_N) * between)


def faded(age_N: Floats) -> Floats:
    """Share of what was seen ``age_N`` rounds ago that still counts: halved every ``HALF_LIFE`` rounds."""
    return np.asarray(np.exp2(age_N / -HALF_LIFE))


def effective(samples_N: Floats, faded_N: Floats, window: float) -> Floats:
    """Samples that still count: at most ``window``, times the share ``faded_N`` that time has left."""
    return np.minimum(samples_N, window) * faded_N
