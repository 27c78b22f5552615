"""What other people know about captured files: asked within quota, kept, and followed over time."""
