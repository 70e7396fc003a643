"""What daemon, commands and callback share: scan a tree, compare it with what is known, read what changed, commit."""
