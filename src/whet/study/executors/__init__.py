"""What a study's nodes are trained on: this process, processes, a Ray cluster, batch jobs."""
