"""The same work on a Ray cluster: several processes, on this machine or on many.

Ray schedules, queues and retries; this package only says what a worker does. The only package that
imports Ray.
"""
