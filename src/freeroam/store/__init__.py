"""What is kept: jobs, results and prompts, in SQLite or PostgreSQL, through one code path."""
