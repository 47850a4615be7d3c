"""The light process around an engine: run, signals, uploads, log, diagnosis. No torch."""
