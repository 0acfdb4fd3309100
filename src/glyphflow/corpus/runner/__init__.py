"""Who does the work: an operator over every shard that lacks its columns, in threads, processes, on Ray or as Slurm jobs."""
