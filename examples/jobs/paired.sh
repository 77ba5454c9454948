# Two scans of each person: a paired t-test, post minus pre.
set -e
cd "$1/repeated"
vbmstat glm "change(gm, time, post - pre) ~ 1" --maps mri --participants participants.tsv --fwhm 8 \
  --contrast "post_minus_pre = Intercept" --sign-flip --inference fwe --permutations 100 --repeats 0 --out glm/paired
