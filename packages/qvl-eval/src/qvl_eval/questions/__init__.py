"""Questions of a command line or of a file, and the file of their answers."""
