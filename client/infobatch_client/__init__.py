"""The training client: a webdataset dataset and loader whose epochs a score server prunes.

Its public names are in `infobatch_stream`. Nothing is imported here, so that commands that need no torch start fast.
"""
