#!/bin/sh
# Install vbmstat with everything that it reads: the one list of steps of all recipes, and of their test.
#
#   containers/install.sh TARGET [cpu|cuda] [web|none|FOLDER]
#
# TARGET    virtual environment to make; assets go to TARGET/assets
# cpu|cuda  which build of torch; the CUDA build brings its own libraries, only the driver is the host's
# web|…     where the weights of engine deep come from: the internet, nowhere, or a folder that holds them
# EXTRAS    (environment) extras to install, with commas: cluster, cat (GPL)
set -eu
target=$1
variant=${2:-cpu}
weights=${3:-web}
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
case $variant in
  cpu) index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu} ;;
  cuda) index=${TORCH_INDEX:-} ;; # the builds on PyPI
  *) echo "expected cpu or cuda, got $variant" >&2; exit 2 ;;
esac

"${PYTHON:-python3}" -m venv "$target"
pip() { "$target/bin/python" -m pip --disable-pip-version-check --no-cache-dir --quiet "$@"; }
if [ -n "$index" ]; then
  pip install --retries 1 --timeout 20 --no-deps -c "$source/constraints.txt" --index-url "$index" torch \
    || echo "no torch at $index; it comes from the usual index" >&2
fi
pip install -c "$source/constraints.txt" "$source${EXTRAS:+[$EXTRAS]}"

# A third of the size that nothing needs at run time: headers, test suites, and torch's programs but for its memory manager.
packages=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
rm -rf "$packages/torch/include" "$packages/torch/test"
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
find "$packages" -type d -name tests -prune -exec rm -rf {} +

export VBMSTAT_ASSETS="$target/assets"
mkdir -p "$VBMSTAT_ASSETS"
case $weights in
  web) "$target/bin/vbmstat" assets fetch deepmriprep ;;
  none) ;;
  *) "$target/bin/vbmstat" assets fetch deepmriprep --source "$weights" --offline ;;
esac
"$target/bin/vbmstat" assets verify
chmod -R a+rX "$target"
