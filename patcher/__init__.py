"""Turn recorded call sites into NOPs and back into calls, and never write anything else."""
