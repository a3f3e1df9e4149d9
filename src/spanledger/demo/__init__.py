"""`spanledger demo`: an agent is killed at the worst moments, and the customer is refunded once."""
