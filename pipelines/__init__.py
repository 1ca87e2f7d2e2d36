"""Effects: files, flows and the command line."""
