"""Stands in for Isaac-GR00T: the package its scripts import from."""
