"""Isaac-GR00T N1.7's real code as child processes of ``bench.n17``. Nothing of pippa is imported in them."""
