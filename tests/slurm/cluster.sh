#!/bin/bash
# Starts Slurm on this machine alone: cluster.sh DIR
#
# DIR gets its configuration, state and logs; `SLURM_CONF=DIR/slurm.conf` makes Slurm's commands
# use it. Needs root and Debian's packages slurm-wlm and munge. The daemons' process ids are in
# DIR/*.pid; the services that the packages bring are not touched.
set -euo pipefail
dir=$(realpath "$1")
name=$(hostname --short)
mkdir -p "$dir/state" "$dir/spool"

(umask 077 && head --bytes 1024 /dev/urandom > "$dir/munge.key")
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
  --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"

# Ports beside Slurm's own, which a cluster of this machine may use.
cat > "$dir/slurm.conf" <<CONF
ClusterName=phases
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=36817
SlurmdPort=36818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
ReturnToService=2
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld
slurmd
