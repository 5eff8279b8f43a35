"""Plans of many runs, their execution, and statistics over their records."""
