"""How engines bear artefacts and how they follow graded atrophy: scans whose truth is known, made and segmented.

`engines`: engines over images, and a table that grows by a row a scan and can be taken up again; `artefacts`: seven
artefacts, medium and strong; `atrophy`: the cortex thinner by 0.1 to 1 mm.
"""
