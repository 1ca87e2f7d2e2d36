"""Private rows and what may be asked of them: arrays and numbers only."""
