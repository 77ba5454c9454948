# Two groups, patients minus controls: FWE and TFCE by permutation, with the table of peaks.
set -e
cd "$1"
vbmstat glm "gm ~ group + age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 8 \
  --contrast "patients_minus_controls = group[T.patient]" --inference fwe,tfce --permutations 100 --out glm/two_groups
cat glm/two_groups/contrast-patientsMinusControls_peaks.tsv
