#!/usr/bin/env bash
# A Ray cluster in one Slurm job, and a run on it:
#   sbatch docker/slurm.sh cluster=gpu64 rollout=gpu run_dir=/shared/runs/first
# rlcore must be on PATH of every node: activate a shared virtual environment before sbatch, or add
# --container-image=... to the srun lines. The run folder must be on a shared file system.
#SBATCH --job-name=rlcore
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -euo pipefail

START_S=${START_S:-300} # seconds for all nodes to join
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS="$head_ip:6379"
# A token for this job. Without it Ray would use ~/.ray/auth_token only on nodes that have the file.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# srun does not inherit --cpus-per-task from sbatch.
step=(srun --overlap --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")

"${step[@]}" --nodes=1 -w "$head" \
  ray start --head --node-ip-address="$head_ip" --port=6379 --block &
if ((${#nodes[@]} > 1)); then
  # `ray start --address` fails until the head listens, so wait for the head first.
  "${step[@]}" --nodes=$((${#nodes[@]} - 1)) --exclude="$head" \
    bash -c "for i in {1..$((START_S / 5))}; do ray health-check --address $RAY_ADDRESS && break; sleep 5; done
             exec ray start --address=$RAY_ADDRESS --block" &
fi
joined() { ray status --address "$RAY_ADDRESS" 2>/dev/null | grep -c '^ *1 node_' || true; }
deadline=$((SECONDS + START_S))
until (($(joined) >= ${#nodes[@]})); do
  if ((SECONDS >= deadline)); then
    echo "slurm.sh: $(joined) of ${#nodes[@]} nodes joined Ray within $START_S s" >&2
    exit 1
  fi
  sleep 2
done

# Five minutes before the time limit Slurm sends SIGTERM to this script: the run saves a checkpoint, and the job is
# queued again to resume from it.
run='' stopped=''
trap 'stopped=1; if [[ -n $run ]]; then kill -TERM "$run" 2>/dev/null || true; fi' TERM
"${step[@]}" --nodes=1 -w "$head" rlcore train "$@" &
run=$!
# A trapped signal interrupts `wait`, and the end of this script would end the run: wait until the run has exited.
while kill -0 "$run" 2>/dev/null; do wait "$run" || true; done
status=0
wait "$run" || status=$?
if [[ -n $stopped ]] && ((status != 0)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
