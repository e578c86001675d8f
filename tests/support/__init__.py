"""What tests are made of: builders of files and programs, judges, tools of the machine."""
