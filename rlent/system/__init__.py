"""The machine under a run: files that are whole or not there, signals that ask for a stop, locks, and where shipped files are."""
