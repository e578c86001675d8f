"""`recordmcount report`: what people read of call sites, as text or JSON."""
