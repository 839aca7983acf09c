"""Jobs: audits and evaluations in processes of their own."""
