"""Benchmarks: one command per area, each prints a table; dated results lie in ``bench/results``."""
