"""Batches of scans: the plan of a run, a task per scan, executors of tasks, and the cohort table."""
