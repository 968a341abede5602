"""The one shape that every client-selection policy has."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from strategies.fleet import Fleet, Floats, Ints


class SelectionPolicy(Protocol):
    """Chooses who works next. A policy may remember what it learns; it draws only from ``rng``."""

    def select(
        self, fleet: Fleet, available: Ints, predicted_s: Floats, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Ints:
        """Rows of at most ``cohort`` distinct nodes.

        Parameters
        ----------
        fleet : Fleet
            Columns of all N nodes.
        available : Ints
            Rows that may be given work.
        predicted_s : Floats
            Shape (N,): predicted seconds of each node's round under the plan it would get.
        cohort : int
            How many nodes are wanted.
        round : int
            Number of the round to be planned, from 1.
        rng : Generator
            The only source of chance.
        """
        ...
