"""One file for each way to train the same replicates; each runs as ``python -m arms.NAME`` in a process of its own."""
