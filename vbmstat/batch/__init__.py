"""Many scans: a plan of the run, a task a scan, whoever works them off, and one table of the cohort in the end."""
