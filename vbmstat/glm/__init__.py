"""Voxelwise linear models: design, contrasts, packed maps, the engine, and results."""
