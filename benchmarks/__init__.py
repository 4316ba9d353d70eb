"""segext beside stock PyTorch: speed, bytes and the cost of a call. Run as ``python -m benchmarks``."""
