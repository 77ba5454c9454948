"""The paper's networks: tissue (whole view and patches), GM mask, registration (Fisch et al. 2026).

doi:10.1038/s43588-026-00953-7. Networks take and give batches of plain tensors, (B, C, X, Y, Z); `cascade` alone knows
the regions they see.
"""
