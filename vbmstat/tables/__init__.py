"""Read and write tables: cohorts, data dictionaries, the meaning of every column."""
