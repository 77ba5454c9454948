# Smooth CAT12's unsmoothed maps by 10 mm as they are read, and draw the corrected p as -log10 p.
set -e
cd "$1"
vbmstat glm "gm ~ group + age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 10 \
  --contrast group --inference tfce --permutations 100 --repeats 0 --out glm/s10
vbmstat show glm/s10/contrast-group_stat-ptfce_statmap.nii.gz --threshold 0.05 --out log_p.png
