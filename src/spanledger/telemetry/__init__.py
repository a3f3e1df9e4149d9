"""Everything OpenTelemetry: spans of calls, the decision trace, and the gate no tool span starts without."""
