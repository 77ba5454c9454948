"""Two pipelines or two sets of results compared: files, tables, figures, whole cohorts."""
