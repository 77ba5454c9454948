"""The steps of preprocessing: pure functions of volumes, independent of one another."""
