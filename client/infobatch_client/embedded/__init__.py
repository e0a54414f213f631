"""The embedded score server: started, elected and found by the processes of one machine."""
