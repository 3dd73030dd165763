"""Calls for sessions that another gateway holds: passed on to that one, and taken from others."""
