"""What a call is and how it is decided: pure values and functions, no clock, no socket, no span."""
