"""Where the records are kept, and how one hears of changes."""
