# Two groups, adjusted for TIV with a slope for each group (CAT12's covariate with interaction).
set -e
cd "$1"
vbmstat glm "gm ~ group + age + sex + center(tiv):group" --maps cat12/mri --participants participants.tsv --fwhm 8 \
  --contrast "patients_minus_controls = group[T.patient]" --inference tfce --permutations 100 --repeats 0 --out glm/by_group
