"""Whose counters the judge can read: each server's names as data, and what of a server cannot be judged."""
