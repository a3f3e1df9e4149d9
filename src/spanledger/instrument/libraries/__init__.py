"""One file per library: what to wrap in it, and how to read what passes."""
