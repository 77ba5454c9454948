"""Training of the networks of engine `deep`: data, augmentation, losses, schedules, runs (`vbmstat train`).

`prepare`: scans and label maps -> one file of cases; `cases`: that file; `augment`: the twelve augmentations; `losses`;
`velocity`: half velocities of a given warp; `folds`; `config`: a run's TOML file; `tasks`: what each network sees and
should say; `run`: the loop with checkpoints and log.
"""
