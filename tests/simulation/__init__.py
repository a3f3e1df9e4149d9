"""Workers that are killed at any moment, against a ledger, with an outside world that counts what really happened."""
