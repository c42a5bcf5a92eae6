"""What scripts/benchmark.py is made of: workloads, peers, measuring, and the report."""
