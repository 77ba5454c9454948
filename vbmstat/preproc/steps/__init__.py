"""The steps of preprocessing: pure functions of volumes that know nothing of one another."""
