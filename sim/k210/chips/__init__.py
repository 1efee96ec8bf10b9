"""Chips around the K210: flash, display, card, cameras."""
