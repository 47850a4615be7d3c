"""Servers that a bare machine lacks, run in the background as long as a ``pippa`` command needs them."""
