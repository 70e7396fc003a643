"""The check of a checkpoint at its levels, and where its results are kept."""
