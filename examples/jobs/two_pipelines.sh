# The same scans from two pipelines: compare their maps, and the t-maps of the same model.
set -e
cd "$1"
for pipeline in cat12 spm; do
  vbmstat glm "gm ~ group + age + sex + tiv" --maps $pipeline/mri --participants participants.tsv --fwhm 8 \
    --contrast group --repeats 0 --out glm/of_$pipeline
done
vbmstat compare glm/of_cat12 glm/of_spm --names CAT12 SPM --out comparison/t_maps
vbmstat compare cat12/mri spm/mri --names CAT12 SPM --out comparison/scans
