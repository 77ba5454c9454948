# Volumes of regions, in pandas and in R: the group difference in the insula, age, sex and TIV held constant.
set -e
jobs=$(cd "$(dirname "$0")" && pwd)
cd "$1"
vbmstat roi --maps cat12/mri --atlas lpba40 --out roi
vbmstat glm "gm ~ group + age + sex + tiv" --level region --maps cat12/mri --participants participants.tsv --contrast group --inference fdr --repeats 0 --out glm/regions
python "$jobs/regions.py" roi/roi_lpba40_regions.tsv glm/regions/scans.tsv
if command -v Rscript >/dev/null; then Rscript "$jobs/regions.R" roi/roi_lpba40_regions.tsv glm/regions/scans.tsv
else echo "R is not installed (no Rscript on the PATH): the part in R was left out"; fi
