"""The doors to storage: what opens, replaces and locks files below a root. Nothing here knows what a checkpoint is."""
