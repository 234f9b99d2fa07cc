#!/bin/bash
# Starts the workers of one host, each with its own RANK, and ends when they do.
#
#   start_workers.sh 8 python recipe.py --recipe imagenet104 --data_dir DIR --run_dir RUN
#
# For launchers that start one process for each host, as Kubernetes does with a pod. It reads
#   NODE_RANK    the number of this host, from 0
#   NODES        the number of hosts; each starts as many workers
#   MASTER_ADDR  the name or address of host 0, and MASTER_PORT
# A signal goes to all workers: they save and end with 75. If one ends badly, it ends the others,
# and its status is the status of this script.
set -u
count=$1
shift
workers=()
trap 'kill -TERM "${workers[@]}" 2> /dev/null' TERM INT USR1
for ((local_rank = 0; local_rank < count; local_rank++)); do
  RANK=$((NODE_RANK * count + local_rank)) WORLD_SIZE=$((NODES * count)) LOCAL_RANK=$local_rank "$@" &
  workers+=($!)
done
first=0 # the status of the worker that was the first to end badly
left=$count
while ((left > 0)); do
  wait -n -p ended "${workers[@]}"
  status=$?
  if [ -z "${ended:-}" ]; then # a signal came, and no worker has ended
    continue
  fi
  ((left--))
  for i in "${!workers[@]}"; do
    [ "${workers[i]}" = "$ended" ] && unset "workers[i]"
  done
  if ((status != 0 && first == 0)); then
    first=$status
    kill -TERM "${workers[@]}" 2> /dev/null
  fi
done
exit "$first"
