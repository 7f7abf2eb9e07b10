"""The Label Studio gateway of samserve."""
