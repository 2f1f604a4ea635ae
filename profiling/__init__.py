"""Profiles: where the cycles of a compiled model go, as text, JSON, a trace and a page."""
