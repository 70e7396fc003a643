"""What a run's own logs say, one room for each tool that logs runs."""
