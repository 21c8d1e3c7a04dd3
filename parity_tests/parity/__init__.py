"""The comparison of traces, and what it finds."""
