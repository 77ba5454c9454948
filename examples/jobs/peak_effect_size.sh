# Peaks with region, corrected p, and Hedges' g with 95 % limits; the slices through the highest.
set -e
cd "$1"
vbmstat glm "gm ~ group + age + sex + tiv" --maps cat12/mri --participants participants.tsv --fwhm 8 --contrast group --inference rft --repeats 0 --out glm/peaks
python -c "import pandas; print(pandas.read_csv('glm/peaks/contrast-group_peaks.tsv', sep='\t')[[
  'region', 'x_mm', 'y_mm', 'z_mm', 't', 'effect', 'g', 'g_low', 'g_high']].head().to_string(index=False))"
vbmstat show glm/peaks/contrast-group_stat-t_statmap.nii.gz --crosshair peak --threshold 3.1 --out peak.png
