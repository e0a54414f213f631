"""Which rank this process is, and what all ranks of a job do together. Nothing else."""
