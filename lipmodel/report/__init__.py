"""Reports for people: plots, and pages that need nothing from elsewhere. Wants the extra ``report``."""
