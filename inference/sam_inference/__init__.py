"""The Segment Anything worker of samserve."""
