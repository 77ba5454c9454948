"""Sets of maps: find, decode, mask, pack, store. Knows nothing of models."""
