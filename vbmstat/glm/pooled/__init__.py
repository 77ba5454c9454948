"""Models from what sites share: sums of their maps, and nothing on a person."""
