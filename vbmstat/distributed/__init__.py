"""Work on the processes of a dask cluster."""
