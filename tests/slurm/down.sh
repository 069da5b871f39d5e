#!/bin/sh
# down.sh FOLDER: cancel the jobs, end by their ids the daemons that up.sh started, and delete FOLDER.
folder=$1
export SLURM_CONF="$folder/slurm.conf"
if [ -s "$folder/run/slurmctld.pid" ]; then
    timeout 10 scancel -u "$(id -un)" 2>/dev/null
    for _ in $(seq 30); do
        [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break
        sleep 0.5
    done
fi
for file in "$folder"/run/*.pid "$folder/socket/munged.pid"; do
    [ -s "$file" ] || continue
    id=$(cat "$file")
    kill "$id" 2>/dev/null
    for _ in $(seq 50); do
        kill -0 "$id" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$id" 2>/dev/null
done
rm -rf "$folder"
