"""What ./dev can do; standard library only, because it runs before anything is installed."""
