"""How a job is executed: in a process of its own."""
