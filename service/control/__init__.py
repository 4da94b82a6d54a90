"""What OpenAI does not have: lines, estimates, spend, budgets, limits, breakers, alerts, the fleet."""
