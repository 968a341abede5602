"""Showing runs: one reader of a run's files, and on top of it the terminal's screen, the page, metrics and reports."""
