"""What patcher found or did, as a document of plain values, and how it looks as text."""
