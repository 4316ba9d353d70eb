"""``python -m benchmarks compare A B``: two result files beside each other."""
