"""Everything Postgres: the functions that decide, the drivers that carry steps out, the server for those without one."""
