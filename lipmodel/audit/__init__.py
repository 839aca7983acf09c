"""What can be observed of a deployed graph: evidence, never part of a radius."""
