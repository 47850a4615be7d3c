"""Isaac-GR00T N1.5's way of doing things, for comparison where Isaac-GR00T itself can't be installed."""
