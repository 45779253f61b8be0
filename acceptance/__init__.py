"""How the installed programs behave under bad input and failure."""
