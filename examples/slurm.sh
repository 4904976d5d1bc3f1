#!/bin/bash
# A corpus on Slurm: a job array in which every task does one share. Submit with
#
#     sbatch slurm.sh corpus.csv /shared/separated
#
# A task that was stopped goes on where it was when it is requeued. The same command again does what is missing or failed.
#SBATCH --job-name=unmingle
#SBATCH --array=1-64
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=unmingle-%a.log

corpus=$1
output=$2
exec unmingle separate "$corpus" -o "$output" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
