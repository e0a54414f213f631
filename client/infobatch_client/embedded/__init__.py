"""The embedded score server, which the processes of one machine start, elect and share."""
