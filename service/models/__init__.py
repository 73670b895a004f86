"""The weights that are served."""
