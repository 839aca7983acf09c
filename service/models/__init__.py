"""The models folder: files found, checked, loaded and registered."""
