"""The world outside: the client of OpenRouter's API, its errors and prices, and a simulator of it."""
