"""Everything Postgres: functions that decide, drivers that carry steps out, a server for those without one."""
