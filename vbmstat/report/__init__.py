"""Self-contained HTML reports of a run: what was done, the results, and how to report them."""
