"""Training loops that ``bench.step`` compares, each in a separate process that trains when it is told to."""
