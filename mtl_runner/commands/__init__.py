"""What the command line does, one command a file. Imported when a command is chosen, never before."""
