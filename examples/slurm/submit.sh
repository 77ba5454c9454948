#!/usr/bin/env bash
# Everything from scans to packed maps: the array, and what waits for its end.
#
#   ./submit.sh /data/bids /data/out 200 50      # 200 parts, 50 at a time
set -euo pipefail
bids=$1 out=$2 parts=$3 at_once=${4:-$3}
here=$(dirname "$(realpath "$0")")
array=$(sbatch --parsable --array="1-$parts%$at_once" "$here/preprocess.sbatch" "$bids" "$out")
collect=$(sbatch --parsable --dependency="afterany:$array" "$here/collect.sbatch" "$bids" "$out")
echo "array $array, then $collect; watch with: squeue --me"
