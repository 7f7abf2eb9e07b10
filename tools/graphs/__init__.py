"""Graphs of the Segment Anything networks, written without their weights."""
