"""What a search met: guards that refused something and let something pass."""
