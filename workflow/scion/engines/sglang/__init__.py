"""SGLang: its flags, and how it reads a declaration."""
