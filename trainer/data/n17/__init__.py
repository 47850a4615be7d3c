"""GR00T N1.7's processing of states, actions, images and instructions, with upstream's numbers."""
