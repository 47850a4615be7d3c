"""The parts of ``bench.gpu_drill``, each run in a process that it can lose."""
