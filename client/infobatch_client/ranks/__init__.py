"""Which rank this process is, and the steps that all ranks of a job take together. Nothing else."""
