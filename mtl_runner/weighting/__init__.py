"""Loss weightings: how the tasks' losses become one step."""
