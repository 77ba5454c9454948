"""Names of inputs and outputs, BIDS, finding scans, the run's log."""
