"""Models: loading them, their structure, and the walk over their blocks."""
