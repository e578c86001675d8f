"""The kernel's ftrace for loaded modules: who traces which sites, and a switch without off."""
