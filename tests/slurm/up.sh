#!/bin/sh
# up.sh FOLDER: a throw-away Slurm of two pretended nodes on loopback, its files under FOLDER. Prints the path of its
# configuration for SLURM_CONF; exits with 1 and one sentence where it cannot be. down.sh FOLDER ends it.
set -eu
folder=$1 nodes=2 port=${GIGABAG_SLURM_PORT:-16917}
say() { echo "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || say "the tests on Slurm start its daemons: run them as root, in a container for example"
for program in slurmctld slurmd sbatch munged setpriv; do
    command -v "$program" >/dev/null ||
        say "the tests on Slurm need $program; on Debian: apt-get install slurmctld slurmd slurm-client munge"
done

mkdir -p "$folder/state" "$folder/spool" "$folder/log" "$folder/run"
chmod 755 "$folder"
# Munge with a key and a socket of its own: one that the machine has is left alone.
install -d -o munge -g munge -m 0700 "$folder/munge"
install -d -o munge -g munge -m 0755 "$folder/socket"
head -c 128 /dev/urandom > "$folder/munge/key"
chown munge:munge "$folder/munge/key"
chmod 400 "$folder/munge/key"
setpriv --reuid munge --regid munge --clear-groups munged --key-file="$folder/munge/key" \
    --socket="$folder/socket/munge" --pid-file="$folder/socket/munged.pid" --log-file="$folder/munge/log" \
    --seed-file="$folder/munge/seed" >&2

host=$(hostname -s)
export SLURM_CONF="$folder/slurm.conf"
# cred_expire: a requeued job begins again after so many seconds, and not after two minutes.
cat > "$SLURM_CONF" <<END
ClusterName=gigabag
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/socket/munge,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,sched_min_interval=200000,batch_sched_delay=0
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
ReturnToService=2
KillWait=3
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1))-$((port + nodes)) CPUs=4 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
slurmctld >&2
for i in $(seq "$nodes"); do
    mkdir -p "$folder/spool/n$i"
    slurmd -N "n$i" >&2
done

for _ in $(seq 150); do
    idle=$(timeout 2 sinfo -h -t idle -o %D 2>/dev/null | awk '{ n += $1 } END { print n + 0 }')
    [ "$idle" = "$nodes" ] && echo "$SLURM_CONF" && exit 0
    sleep 0.2
done
tail -n 5 "$folder"/log/*.log >&2
say "the pretended nodes did not come up; the lines above are the last of the daemons' logs"
