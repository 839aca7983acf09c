"""One task in a process with limits of memory and time."""
