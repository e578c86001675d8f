"""`recordmcount report`: a document of plain values, and how it looks as text and as JSON."""
