"""Training: recipes, the loop, and run folders that survive being killed."""
