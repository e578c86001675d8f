"""Which NOPs the processors at hand execute."""
