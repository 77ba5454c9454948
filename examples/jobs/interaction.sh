# Does the slope of age differ between two groups?
set -e
cd "$1"
vbmstat glm "gm ~ group * age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 8 \
  --contrast "steeper_in_patients = group[T.patient]:age" --inference tfce --permutations 100 --repeats 0 --out glm/interaction
