"""Cohort tables, tables with a data dictionary, and what every column means."""
