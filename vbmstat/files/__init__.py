"""Names of inputs and outputs, BIDS, the search for scans, the log of a run."""
