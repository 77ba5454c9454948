# Two scans of each person: a paired t-test, post minus pre.
set -e
cd "$1/repeated"
vbmstat glm "gm ~ time + C(participant_id)" --maps mri --participants participants.tsv --fwhm 8 \
  --contrast "post_minus_pre = -time[T.pre]" --blocks participant_id --inference fwe --permutations 100 --repeats 0 --out glm/paired
