"""Compare two pipelines or two sets of results: files, tables, figures, whole cohorts."""
