"""Training loops that ``bench.step`` compares, each in a process of its own that trains when it is told to."""
