"""What is seen of runs: one reader, and on it the terminal's screen, the page, the metrics and the report."""
