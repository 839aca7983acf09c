"""The scaled norm of the features: its bound, and the search for its weights."""
