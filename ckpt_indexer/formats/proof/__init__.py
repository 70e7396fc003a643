"""Every byte of a file held against its checksums and its writer's layout."""
