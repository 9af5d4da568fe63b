"""What runs say when they are put side by side: comparison, affinity, explanation. Nothing here trains."""
