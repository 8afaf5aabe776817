"""Programs that answer as Slurm's do, and keep in a folder what they were told.

What they are told is real, what they do is not: a job is a process.
"""

from pathlib import Path

SCRIPTS = {
    "srun": """
        while [ "${1#--}" != "$1" ]; do
            case $1 in --output|--error) shift;; esac
            shift
        done
        exec "$@"
    """,
    "sbatch": """
        cd FOLDER && touch ids
        n=$(( $(wc -l < ids) + 1 ))
        cp "$1" submitted-$n.sh
        last=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
        export SLURM_JOB_ID=$n
        for i in $(seq 0 ${last:-0}); do
            id=$n
            if [ -n "$last" ]; then
                export SLURM_ARRAY_JOB_ID=$n SLURM_ARRAY_TASK_ID=$i
                id=${n}_$i
            fi
            setsid bash "$1" > /dev/null 2>&1 &
            echo "$id $!" >> ids
        done
        echo "Submitted batch job $n"
    """,
    "squeue": """
        while read id pid; do
            if kill -0 $pid 2> /dev/null; then echo "$id RUNNING"; fi
        done < FOLDER/ids
        exit 0
    """,
    "scancel": """
        for pid in $(sed -n "s/^$1 //p" FOLDER/ids); do kill -- -$pid 2> /dev/null; done
        echo "$1" >> FOLDER/cancelled
    """,
}


def install(folder: Path) -> Path:
    """Write the programs; gives the folder that must stand in PATH."""
    place = folder / "bin"
    place.mkdir()
    for name, script in SCRIPTS.items():
        (place / name).write_text(f"#!/bin/bash\n{script.replace('FOLDER', str(folder))}")
        (place / name).chmod(0o755)
    return place
