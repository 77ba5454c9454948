# Quality control, then the model without the bad scans: how much did it change?
set -e
cd "$1"
vbmstat glm "gm ~ group + age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 8 --contrast group --repeats 0 --out glm/everyone
vbmstat glm "gm ~ group + age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 8 --contrast group --repeats 0 --out glm/good \
  --where "iqr > 70" --exclude sub-07 --report
vbmstat compare glm/everyone glm/good --out comparison/exclusion
