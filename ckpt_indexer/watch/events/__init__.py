"""Events of the file system, as hints: from the kernel to the set of folders that must be scanned."""
