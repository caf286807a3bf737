"""emoclim finds the music that feels like a photo, and the photos that feel like a song."""

__version__ = "0.1.0"
