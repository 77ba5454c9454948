"""Robustness of engines: artefacts of known strength and atrophy of known size, on heads whose truth is known.

`engines`: runs engines on images and keeps a table that can be resumed; `artefacts`: seven artefacts, medium and
strong; `atrophy`: cortical thinning from 0.1 to 1 mm.
"""
