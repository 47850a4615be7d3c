"""The trainer in a container, through the Docker SDK."""
