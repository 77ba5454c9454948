"""End-to-end voxel-based morphometry: T1-weighted MRI in, defensible statistics out."""

__version__ = "0.1.0"
