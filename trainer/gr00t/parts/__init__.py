"""What the generations of GR00T share: blocks of the action head, layers per embodiment, sections of config.json."""
