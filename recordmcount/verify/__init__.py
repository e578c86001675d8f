"""The verb `verify`: whether tables tell the truth about the code."""
