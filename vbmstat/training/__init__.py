"""Training of engine `deep`'s networks (`vbmstat train`).

`prepare`: scans and label maps -> one file of cases; `cases`: that file; `augment`: twelve augmentations; `losses`;
`velocity`: half velocities of a given warp; `folds`; `config`: a run's TOML file; `task`, `tissue`, `registration`:
inputs, targets, losses and scores of each network; `run`: the loop with checkpoints and log.
"""
