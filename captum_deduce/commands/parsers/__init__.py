"""What each command takes and how its help reads; nothing here imports torch."""
