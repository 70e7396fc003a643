"""What frameworks put into a checkpoint, and how they lay one out over several files."""
