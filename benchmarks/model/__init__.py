"""``python -m benchmarks model``: any network, as it is and converted by ``segext.convert``."""
