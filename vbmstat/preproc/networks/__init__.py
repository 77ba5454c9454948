"""The paper's networks: tissue (whole view and patches), GM mask, registration (Fisch et al. 2026).

doi:10.1038/s43588-026-00953-7. Networks map batches of plain tensors, (B, C, X, Y, Z), to the same; only `cascade`
knows which regions of the scan they see.
"""
