# A figure for a paper: chosen slices, a threshold, one colour scale, a title; SVG with text that can be edited, and PNG.
set -e
cd "$1"
vbmstat glm "gm ~ group + age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 8 --contrast group --repeats 0 --out glm/figure
for kind in svg png; do
  vbmstat show glm/figure/contrast-group_stat-t_statmap.nii.gz --cut z=-10:20:10 --cut x=-34 \
    --threshold 3.1 --limit 8 --title "Patients - controls" --out figure.$kind
done
