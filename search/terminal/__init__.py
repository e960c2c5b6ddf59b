"""What a person sees in a terminal: a search at work, from its own process or from storage alone, and its results."""
