#!/bin/bash
# qvl on two machines of 8 NPUs under SLURM: sbatch examples/ascend/slurm.sh. Not run on NPUs by anybody here.
#
# One task a machine: qvl starts the processes of a machine itself. The machine's number comes from SLURM_NODEID, the
# address from the first host of SLURM_JOB_NODELIST. Five minutes before the time is over the step is finished and saved,
# and the job ends with 0: submit it again, and it goes on from there. A run that broke is queued again by itself. Submit it
# from a shell in whose Python environment qvl is: the job gets that shell's variables.
#SBATCH --job-name=qvl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --output=qvl-%j.log
set -uo pipefail

RECIPE=${RECIPE:-recipes/32b_sft.toml}
# The first from CANN 8.5 on, the second before.
for script in /usr/local/Ascend/cann/set_env.sh /usr/local/Ascend/ascend-toolkit/set_env.sh; do
    if [ -z "${SET_ENV:-}" ] && [ -f "$script" ]; then
        SET_ENV=$script
    fi
done

if [ -z "${SET_ENV:-}" ]; then
    echo "no set_env.sh of CANN below /usr/local/Ascend: state it, SET_ENV=PATH" >&2
    exit 3
fi

# CANN's script reads variables that are not set.
set +u
source "$SET_ENV" || exit 3
set -u
# HCCL opens a file for each connection.
ulimit -n 65535 || true

# A machine that cannot run is found before 16 processes wait for each other.
srun --kill-on-bad-exit=1 qvl doctor --recipe "$RECIPE" || exit

srun --kill-on-bad-exit=1 qvl run "$RECIPE" --set launch.master=localhost:29501
code=$?

# 0: done, or stopped by the signal with everything saved. 1: a run that broke; it goes on from its last checkpoint. 2
# and 3: wrong input or a missing part, which no repetition mends.
if [ "$code" -eq 1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
