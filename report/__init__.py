"""Reports: one JSON-able object for each command, and its text for people, one module a report.

The text is made from the object alone, so both always say the same.
"""
