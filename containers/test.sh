#!/bin/sh
# The recipes' steps without docker or apptainer: install into a clean virtual environment, then use it as a container
# would: no network, a read-only file system but for /tmp and the output, a user without name or home. Needs root
# on Linux (for the namespaces). Weights of engine deep are left out unless WEIGHTS names a folder that holds them.
#
#   sudo PYTHON=/usr/bin/python3 containers/test.sh   # a Python that other users may run
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
sh "$here/install.sh" "$work/opt" "${VARIANT:-cpu}" "${WEIGHTS:-none}"
du -sh "$work/opt"
mkdir "$work/out" "$work/root"
chown 12345:12345 "$work/out"

cat >"$work/inside.sh" <<'INSIDE'
set -eu
work=$1
mount --bind / "$work/root"
mount -o remount,bind,ro "$work/root"
mount --bind "$work/opt" "$work/root$work/opt"
mount -o remount,bind,ro "$work/root$work/opt"
mount --bind "$work/out" "$work/root$work/out"
mount -t proc proc "$work/root/proc"
mount --bind /dev "$work/root/dev"
exec chroot "$work/root" setpriv --reuid 12345 --regid 12345 --clear-groups --no-new-privs env -i \
  PATH="$work/opt/bin:/usr/bin:/bin" VBMSTAT_ASSETS="$work/opt/assets" VBMSTAT_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 \
  HOME="$work/out/tmp" TMPDIR="$work/out/tmp" MPLCONFIGDIR="$work/out/tmp/mpl" NUMBA_CACHE_DIR="$work/out/tmp/numba" \
  sh -euc '
    cd "$0/out" && mkdir tmp
    ! touch "$0/opt/x" 2>/dev/null && ! touch /x 2>/dev/null || { echo "not read-only"; exit 1; }
    vbmstat --version
    vbmstat assets verify >/dev/null
    vbmstat simulate bids --n 1 --voxel-size 2 >/dev/null
    vbmstat preprocess bids --out derivatives --no-report
    vbmstat roi --cohort derivatives/cohort.tsv >/dev/null
    test -s derivatives/cohort.tsv
    ! vbmstat assets fetch 2>err || test -d "$0/opt/assets/deepmriprep"
    cat err
  ' "$work"
INSIDE
unshare --mount --net --pid --fork sh "$work/inside.sh" "$work"
echo "works: no network, read-only, user 12345 without name or home"
