#!/usr/bin/env bash
# A SLURM cluster of this machine alone, for tests and to try batch files: munge, slurmctld and slurmd of whoever
# starts it, with configuration, state and logs in one folder; nothing of a SLURM that is installed is touched.
# Containers have neither systemd nor control groups of their own: processes are tracked in /proc, nothing binds them.
#
#   apt-get install slurm-wlm munge
#   tests/slurm_machine.sh start FOLDER        # prints the line to say: export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm_machine.sh stop FOLDER
set -euo pipefail
action=$1 folder=$(realpath -m "$2")
host=$(hostname -s)

start() {
  mkdir -p "$folder"/{munge,state,spool}
  chmod 700 "$folder/munge"
  head -c 128 /dev/urandom > "$folder/munge/key"
  chmod 600 "$folder/munge/key"
  # Free ports, so that two such clusters can live beside one another
  read -r controller_port node_port < <(python3 -c '
import socket
found = [socket.socket() for _ in range(2)]
for one in found: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in found))')
  cat > "$folder/slurm.conf" <<CONF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/completed.txt
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=2
MinJobAge=600
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,bf_interval=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  export SLURM_CONF=$folder/slurm.conf
  slurmctld
  slurmd -N "$host"
  for _ in $(seq 60); do
    if sinfo --noheader --states=idle --format=%D 2> /dev/null | grep -q 1; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "SLURM did not come up: see $folder/slurmctld.log and $folder/slurmd.log" >&2
  exit 1
}

stop() {
  export SLURM_CONF=$folder/slurm.conf
  scancel --user="$(id -un)" 2> /dev/null || true
  for pid in "$folder"/slurmd.pid "$folder"/slurmctld.pid "$folder"/munge/pid; do
    if [ -s "$pid" ]; then kill "$(cat "$pid")" 2> /dev/null || true; fi
  done
}

"$action"
