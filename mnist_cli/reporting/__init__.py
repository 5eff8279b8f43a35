"""Records as tables, sentences, charts, pages and terminal output."""
