"""The only process boundary: foreign bytes are parsed in a worker process with limits on memory and time.

``owner`` starts the worker and talks to it, and imports no parser; ``worker`` is what runs on the other side.
"""
