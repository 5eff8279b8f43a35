"""Charts: one file a chart, beside what they share. Each has ``draw``, which writes a PNG file.

A chart of an experiment also has ``FILE_NAME`` and, for the page, ``DESCRIPTION``, and is listed in
`reporting.results`. Charts read records and arrays and nothing else. ``draw`` raises `OutputError`
if the file cannot be written, and `UsageError` if there is no record.
"""
