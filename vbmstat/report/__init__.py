"""One self-contained page about a run: what was done, what came out, and how to report it."""
